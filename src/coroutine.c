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

/* Whether nobody has this StopIteration any more, and it is as it was made for `value`. */
static bool
is_unused_stop(PyObject *stop, PyObject *value)
{
    PyBaseExceptionObject *base = (PyBaseExceptionObject *)stop;
    return Py_REFCNT(stop) == 1 && ((PyStopIterationObject *)stop)->value == value &&
           base->traceback == NULL && base->context == NULL && base->cause == NULL &&
           base->dict == NULL && base->args != NULL && PyTuple_GET_SIZE(base->args) == 1 &&
           PyTuple_GET_ITEM(base->args, 0) == value;
}

/* Raises StopIteration(value).  `await` drives our coroutines through tp_iternext, so this is how
 * every emit_async ends; and making an exception costs more than all the rest of one that has no
 * handlers.  The interpreter takes the value and drops the exception at once, so those with small
 * numbers, counts of handlers, are used again. */
static void
raise_stop_iteration(aeb_state *state, PyObject *value)
{
    long number = PyLong_CheckExact(value) ? PyLong_AsLong(value) : -1;
    if (number < 0 || number >= AEB_MAX_FREE) {
        PyErr_Clear(); /* a number too big for a long */
        PyErr_SetObject(PyExc_StopIteration, value);
        return;
    }
    PyObject *stop = state->stop_iterations[number];
    if (AEB_UNLIKELY(stop == NULL || !is_unused_stop(stop, value))) {
        stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        if (stop == NULL) {
            return;
        }
        Py_XSETREF(state->stop_iterations[number], stop);
    }
    aeb_restore_exception_steal(Py_NewRef(stop));
}

void
aeb_coroutine_forget(aeb_state *state)
{
    for (int i = 0; i < AEB_MAX_FREE; i++) {
        Py_CLEAR(state->stop_iterations[i]);
    }
}

PyObject *
aeb_send_result(aeb_state *state, PySendResult status, PyObject *result_steal)
{
    if (status != PYGEN_RETURN) {
        return result_steal;
    }
    if (result_steal == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    else {
        raise_stop_iteration(state, result_steal);
    }
    Py_DECREF(result_steal);
    return NULL;
}
