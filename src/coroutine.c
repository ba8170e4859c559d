/* The coroutine protocol, as far as our two coroutine types share it. */
#include "coroutine.h"

PyObject *
aeb_thrown_exception(PyObject *args)
{
    PyObject *type, *value = Py_None, *traceback = Py_None;
    if (!PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &traceback)) {
        return NULL;
    }
    PyObject *exc;
    if (PyExceptionInstance_Check(type)) {
        exc = Py_NewRef(type);
    }
    else if (PyExceptionClass_Check(type)) {
        exc = PyExceptionInstance_Check(value) ? Py_NewRef(value)
              : value == Py_None               ? PyObject_CallNoArgs(type)
                                               : PyObject_CallOneArg(type, value);
    }
    else {
        PyErr_Format(
            PyExc_TypeError,
            "exceptions must be classes or instances deriving from BaseException, not %.200s",
            Py_TYPE(type)->tp_name);
        return NULL;
    }
    if (exc != NULL && !PyExceptionInstance_Check(exc)) {
        Py_CLEAR(exc);
        PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
    }
    if (exc != NULL && PyTraceBack_Check(traceback) &&
        PyException_SetTraceback(exc, traceback) < 0) {
        Py_CLEAR(exc);
    }
    return exc;
}

void
aeb_raise_in_coroutine_steal(PyObject *exc_steal)
{
    PyObject *exc = exc_steal, *error;
    if (AEB_UNLIKELY(PyErr_GivenExceptionMatches(exc, PyExc_StopIteration))) {
        error = PyObject_CallFunction(PyExc_RuntimeError, "s", "coroutine raised StopIteration");
        if (error == NULL) {
            Py_DECREF(exc);
            return;
        }
        PyException_SetContext(error, Py_NewRef(exc));
        PyException_SetCause(error, exc);
        exc = error;
    }
    aeb_restore_exception_steal(exc);
}

/* Whether nobody else has this StopIteration any more, and it is as it was made for `value`.  One
 * reference is ours and one the caller's. */
static bool
is_unused_stop(PyObject *stop, PyObject *value)
{
    PyBaseExceptionObject *base = (PyBaseExceptionObject *)stop;
    return Py_REFCNT(stop) == 2 && ((PyStopIterationObject *)stop)->value == value &&
           base->traceback == NULL && base->context == NULL && base->cause == NULL &&
           base->dict == NULL && base->args != NULL && PyTuple_GET_SIZE(base->args) == 1 &&
           PyTuple_GET_ITEM(base->args, 0) == value;
}

void
aeb_raise_stop_iteration(aeb_state *state, Py_ssize_t number)
{
    PyObject *value = PyLong_FromSsize_t(number);
    if (value == NULL) {
        return;
    }
    /* An await comes here in Python 3.9 and from 3.12 on, and leaves nothing in the exception.  What calls
     * next() leaves its frame in the traceback: that is let go at the next end of an emission. */
    bool keep = AEB_HAS_GIL && (PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x030C0000) &&
                number >= 0 && number < AEB_MAX_FREE;
    PyObject *stop = NULL;
    if (AEB_LIKELY(keep)) {
        stop = Py_XNewRef(state->stop_iterations[number]);
    }
    if (AEB_UNLIKELY(stop == NULL || !is_unused_stop(stop, value))) {
        Py_XDECREF(stop);
        stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        if (stop != NULL && keep) {
            Py_XSETREF(state->stop_iterations[number], Py_NewRef(stop));
        }
    }
    Py_DECREF(value);
    if (AEB_LIKELY(stop != NULL)) {
        aeb_restore_exception_steal(stop);
    }
}

void
aeb_coroutine_forget(aeb_state *state)
{
    for (int i = 0; i < AEB_MAX_FREE; i++) {
        Py_CLEAR(state->stop_iterations[i]);
    }
}
