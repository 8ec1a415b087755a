/* Makes a server's data directory from a backup (backup_file.h), for a new cluster with members of its own: `crsc-logd --restore FILE`, once for
 * each of them, from the same file. They begin with the same state, one entry behind the backup's last, and the new membership; identities are new, so that
 * no server of the old cluster is taken for one of these. The backup is verified first, whole, and every event of it before the directory gets
 * its name. Blocking. Source of the way: etcd's disaster recovery ("snapshot restore"). */
#ifndef CRSC_LOGD_SERVER_RESTORE_H
#define CRSC_LOGD_SERVER_RESTORE_H

#include "common/error.h"
#include "logd/server/settings.h"

/* -ERROR_EXISTS when the directory has something in it; -ERROR_CORRUPT, -ERROR_NOT_FOUND, -ERROR_INVALID (no initial-cluster), -ERROR_NOSPACE,
 * -ERROR_IO: then there is no directory that a server would start from. */
int restore_run(const struct settings *settings, const char *backup, struct error *e);

#endif
