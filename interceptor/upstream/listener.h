/* Who listens there? An id of the listening sockets behind an address of this machine (network namespace).
 *
 * A process that died and was started again at the same address takes connections as if nothing had happened, and its
 * state is another one. But its listening socket is a new one, with another inode in /proc/net/tcp. So an app whose
 * listener changed is another incarnation, whatever its connections looked like.
 *
 * Of a Unix socket it is the file: whoever binds a path anew makes another one.
 *
 * Of an address, asks the kernel for the socket that a connection to the address would reach: some microseconds. Where it cannot say
 * (no sock_diag), reads a file of procfs: no disk, but milliseconds on a machine with a large table of connections. Thread: any.
 * Sources: sock_diag(7); Linux, Documentation/networking/proc_net_tcp.rst. */
#ifndef CRSC_INTERCEPTOR_UPSTREAM_LISTENER_H
#define CRSC_INTERCEPTOR_UPSTREAM_LISTENER_H

#include <stdint.h>
#include <sys/socket.h>

/* The same as long as the same sockets listen there; 0: none is seen (another host or namespace: nothing can be said). */
uint64_t listener_id(const struct sockaddr *address);

#endif
