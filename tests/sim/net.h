/* The network between the simulated machines: what TCP gives its users, and what it does not hide.
 *
 * Bytes of one direction of a connection arrive in order or not at all; each piece has a delay of its own, so that connections
 * overtake each other. A lost packet is a delay. A direction that is blocked (a partition, one way or both) keeps what was sent until
 * it is healed. A connection can be reset at any byte. A killed process' connections end with FIN or RST; a machine without power
 * says nothing, and answers with RST when it is back.
 *
 * Sockets belong to a loop of uv.c, which is told by uv_sim_ready(). Thread: one. */
#ifndef CRSC_TESTS_SIM_NET_H
#define CRSC_TESTS_SIM_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct process;

enum { NET_MACHINES = 40, NET_ROOM = 256 << 10 /* sent and not read: beyond it a writer waits */ };

struct net_link { /* of one direction */
    bool blocked;
    uint32_t min_us, max_us;
    unsigned late_of_1000; /* pieces lost and sent again */
    uint32_t bytes_per_ms; /* 0: any */
    uint64_t free_at;      /* nanoseconds: when the slow link has sent what it was given */
};
struct net_link *net_link(unsigned from, unsigned to);
extern uint64_t net_counts[8];
enum { NET_PIECES, NET_LATE, NET_HELD, NET_RESETS, NET_CONNECTS, NET_REFUSED, NET_SPLIT };

void net_begin(void);
void net_healed(void);                   /* links were changed: what was held goes on */
bool net_reset_one(struct process *of);  /* a connection of this machine breaks in the middle; NULL: any */
void net_cut(unsigned a, unsigned b);    /* all connections between two machines end at once, for both */
void net_process_ended(struct process *p, bool power);
void net_machine_up(unsigned machine);

/* ---- for uv.c ------------------------------------------------------------------------------------------------- */

struct sock;
struct uv_stream_s;

struct sock *sock_new(struct process *p, struct uv_stream_s *handle);
void sock_close(struct sock *s);
int sock_listen(struct sock *s, unsigned machine, uint16_t port);
void sock_connect(struct sock *s, unsigned machine, uint16_t port);
struct sock *sock_accept(struct sock *listener, struct uv_stream_s *handle); /* NULL: nobody waits */
bool sock_has_connection(const struct sock *listener);
void sock_send(struct sock *s, const void *bytes, size_t len);
size_t sock_unread(const struct sock *s);     /* sent by us, not yet read by the other side */
size_t sock_readable(const struct sock *s);
size_t sock_read(struct sock *s, void *bytes, size_t len);
int sock_state(const struct sock *s, bool *ret_connected, bool *ret_eof); /* 0, or why it is broken (a negated errno) */
void sock_address(const struct sock *s, unsigned *ret_machine, uint16_t *ret_port);
void sock_peer_address(const struct sock *s, unsigned *ret_machine, uint16_t *ret_port);

/* Given by uv.c. */
struct uv_signal_s;
void uv_sim_ready(struct uv_stream_s *handle);
void uv_sim_raise(struct uv_signal_s *handle); /* the signal that it waits for */

#endif
