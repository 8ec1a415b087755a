/* Sockets in the network of a pod, whose interceptor listens on loopback only. A socket belongs to the namespace in which it was made, whatever its
 * thread does later: so the thread enters, makes it, and is back before anything else. Thread: any. */
#ifndef CRSC_AGENT_NETNS_H
#define CRSC_AGENT_NETNS_H

#include <sys/types.h>

/* As socket(2), in the network namespace of the process `of`. -1: it is gone, or the system refuses. */
int netns_socket(pid_t of, int family, int type, int protocol);

#endif
