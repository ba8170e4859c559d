/* The values of options: what is accepted, and the errors for what is not. */
#ifndef AEB_OPTIONS_H
#define AEB_OPTIONS_H

#include "state.h"

/* Each reads one option, called `name` in errors.  0, or -1 with TypeError for a wrong type and
 * ValueError or OverflowError for a value out of range. */

int aeb_parse_flag(PyObject *value, const char *name, bool *flag);

int aeb_parse_priority(PyObject *value, int64_t *priority);

/* A count of at least 1, or None: 0, for no limit. */
int aeb_parse_limit(PyObject *value, const char *name, Py_ssize_t *limit);

/* A count, 0 included. */
int aeb_parse_count(PyObject *value, const char *name, Py_ssize_t *count);

/* A time in seconds, more than 0, or None, or infinity: both 0, for no limit. */
int aeb_parse_seconds(PyObject *value, const char *name, double *seconds);

/* The arguments of a method that takes an event name and, unless `payload` is NULL, a payload, by
 * position or by keyword: borrowed, and None for a payload that is not given.  0, or -1 with
 * TypeError. */
int aeb_parse_event(const char *function, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames, PyObject **name, PyObject **payload);

#endif
