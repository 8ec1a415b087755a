/* The one error type of CRSC.
 *
 * A function that can fail returns an int: 0, or the negated `enum error_code`. Where a person will want to know more
 * than the code, its last parameter is a `struct error *`, filled with what happened and what to do about it; it may
 * be NULL. Out parameters are written on success only. Codes travel on the wire (proto/rpc.proto, ErrorReply.code):
 * never renumber them.
 *
 * Thread: any. Ownership: a struct error is a plain value, copied by assignment. */
#ifndef CRSC_COMMON_ERROR_H
#define CRSC_COMMON_ERROR_H

enum error_code {
    ERROR_NONE = 0,
    ERROR_NOMEM = 1,        /* allocation failed */
    ERROR_IO = 2,           /* the system refused an operation on a file, socket or process */
    ERROR_CORRUPT = 3,      /* stored bytes are not what was written: never served, never voted from */
    ERROR_INVALID = 4,      /* the caller's argument, configuration or request is wrong; retrying will not help */
    ERROR_NOT_FOUND = 5,    /* no such stream, offset, snapshot, file */
    ERROR_EXISTS = 6,       /* there already */
    ERROR_NOT_LEADER = 7,   /* ask the leader; its address comes with the answer when it is known */
    ERROR_UNAVAILABLE = 8,  /* nobody can do it right now (no leader, no majority): retry */
    ERROR_FENCED = 9,       /* a newer epoch owns the stream: this producer must stop */
    ERROR_SEQUENCE = 10,    /* an append skipped a sequence number, or is too old for its outcome to be known */
    ERROR_CONFLICT = 11,    /* the expected offset or state is not the present one */
    ERROR_TOO_LARGE = 12,   /* over a documented limit */
    ERROR_BUSY = 13,        /* a bounded queue is full: slow down and retry */
    ERROR_CANCELED = 14,    /* ended by its own side */
    ERROR_PROTOCOL = 15,    /* the peer does not speak our protocol */
    ERROR_TIMEOUT = 16,     /* not done within its bound; the outcome may be unknown */
    ERROR_NOSPACE = 17,     /* disk full, or below the reserve */
    ERROR_INTERNAL = 18,    /* a broken assumption of our own */
    ERROR_DENIED = 19,      /* who asks is not allowed to: no good certificate, or not the role for it */
    ERROR_REMOVED = 20,     /* the server that says so is none of the cluster's any more: removed, or not with the data it had */
    ERROR_CODE_MAX
};

enum { ERROR_TEXT_MAX = 256 }; /* bytes of text, with the terminating zero; longer is cut */

struct error {
    enum error_code code;
    char text[ERROR_TEXT_MAX]; /* one sentence, no newline, no trailing full stop needed */
};

/* Fills `e` (if not NULL) and returns -code. */
int error_set(struct error *e, enum error_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set(), with ": " and strerror(errno_value) behind the text. */
int error_errno(struct error *e, enum error_code code, int errno_value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* As error_set(), with ": " and uv_strerror(status) behind the text; status is libuv's negative errno. */
int error_uv(struct error *e, enum error_code code, int status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "context: " before the text that is there. Returns -e->code. */
int error_prefix(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Short lower-case name of a code, e.g. "not-leader"; "unknown" for anything else. Never NULL. */
const char *error_name(int code);

#endif
