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

PyObject *
aeb_send_result(PySendResult status, PyObject *result_steal)
{
    if (status != PYGEN_RETURN) {
        return result_steal;
    }
    if (result_steal == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    else {
        PyErr_SetObject(PyExc_StopIteration, result_steal);
    }
    Py_DECREF(result_steal);
    return NULL;
}
