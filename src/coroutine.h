/* The coroutine protocol, as far as our two coroutine types share it. */
#ifndef AEB_COROUTINE_H
#define AEB_COROUTINE_H

#include "state.h"

/* What Python says to a coroutine's first send() of anything but None. */
#define AEB_FIRST_SEND "can't send non-None value to a just-started coroutine"

/* What throw() was called with as one exception object; a new reference or NULL. */
PyObject *aeb_thrown_exception(PyObject *args);

/* result/status as the `send` slot of a Python-level method has them: a value or StopIteration. */
PyObject *aeb_send_result(aeb_state *state, PySendResult status, PyObject *result_steal);

/* Forgets what is kept for reuse. */
void aeb_coroutine_forget(aeb_state *state);

#endif
