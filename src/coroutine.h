/* The coroutine protocol, as far as our two coroutine types share it. */
#ifndef AEB_COROUTINE_H
#define AEB_COROUTINE_H

#include "state.h"

/* What Python says to a coroutine's first send() of anything but None. */
#define AEB_FIRST_SEND "can't send non-None value to a just-started coroutine"

/* What throw() was called with as one exception object; a new reference or NULL. */
PyObject *aeb_thrown_exception(PyObject *args);

/* Raises an exception that ends a coroutine: as it is, but a StopIteration, which would be taken for the
 * coroutine's result, as the RuntimeError that Python makes of it (PEP 479). */
void aeb_raise_in_coroutine_steal(PyObject *exc_steal);

/* Raises StopIteration(number).  `await` drives our coroutines through tp_iternext, so this is how
 * every emit_async ends; and making an exception costs more than all the rest of one that has no
 * handlers.  The interpreter takes the value and drops the exception at once, so those with small
 * numbers are used again.  For send() and throw() that is not so: a caller in Python leaves its frame
 * in the traceback. */
void aeb_raise_stop_iteration(aeb_state *state, Py_ssize_t number);

/* Forgets what is kept for reuse. */
void aeb_coroutine_forget(aeb_state *state);

#endif
