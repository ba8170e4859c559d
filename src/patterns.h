/* Patterns: which of the keys with a "*" in them match an event name. */
#ifndef AEB_PATTERNS_H
#define AEB_PATTERNS_H

#include "compat.h"

/* The patterns of one bus: a trie over their segments. */
typedef struct aeb_patterns aeb_patterns;

/* Adds a pattern, an exact str that is well-formed and not "*" alone; *patterns is made when it is
 * NULL.  The pattern must not be there yet.  0 or -1, and then nothing has changed. */
int aeb_patterns_add(aeb_patterns **patterns, PyObject *key);

/* Removes a pattern; nothing where it is not there.  *patterns is NULL after the last. */
void aeb_patterns_remove(aeb_patterns **patterns, PyObject *key);

/* Calls `found` with each pattern that matches, in no particular order, until it returns -1.
 * `patterns` may be NULL and must not be changed meanwhile.  0 or -1. */
int aeb_patterns_match(const aeb_patterns *patterns, PyObject *name,
                       int (*found)(void *context, PyObject *key), void *context);

void aeb_patterns_free(aeb_patterns *patterns);

#endif
