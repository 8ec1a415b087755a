/* `crsc-operator kubernetes`: the operator of a cluster. One loop, one process; several may run, one leads. Returns the exit status. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_KUBERNETES_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_KUBERNETES_H

int kubernetes_main(int argc, char **argv);

#endif
