/* A short text that a data directory keeps, so that a person can read it: replaced as a whole, durably. Blocking; thread: any. */
#ifndef CRSC_LOGD_SERVER_NOTE_H
#define CRSC_LOGD_SERVER_NOTE_H

#include <stddef.h>

#include "common/error.h"

/* DIR/NAME says `text` from now on, or what it said before, also after a loss of power. -ERROR_IO. */
int note_write(const char *dir, const char *name, const char *text, struct error *e);
/* 1: what it says, ended by a zero and cut to `size`; 0: there is none; -ERROR_IO. */
int note_read(const char *dir, const char *name, size_t size, char *ret_text, struct error *e);
/* There is none from now on. -ERROR_IO. */
int note_remove(const char *dir, const char *name, struct error *e);

#endif
