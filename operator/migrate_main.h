/* `crsc-operator migrate`: asks the operator of this machine, by its control socket (control.h), to move an app to a spare, and tells how that goes.
 * Returns the exit status. Blocks. */
#ifndef CRSC_OPERATOR_MIGRATE_MAIN_H
#define CRSC_OPERATOR_MIGRATE_MAIN_H

int migrate_main(int argc, char **argv); /* argv[0] is "migrate" */

#endif
