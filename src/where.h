/* Conditions: what the option `where` asks of a payload. */
#ifndef AEB_WHERE_H
#define AEB_WHERE_H

#include "state.h"

/* What is kept of the option: a callable as it is, a mapping as a tuple of field, value, field, ...
 * TypeError, with NULL, for anything else. */
PyObject *aeb_where_compile(PyObject *where);

/* Whether a payload meets a compiled condition: 1, 0, or -1 with what the condition raised. */
int aeb_where_matches(PyObject *compiled, PyObject *payload);

#endif
