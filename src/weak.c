/* Weakly held handlers: subscriptions that end when nobody else keeps their handler.
 *
 * A bound method is a fresh object each time it is looked up, so the object and the function are held
 * instead, as weakref.WeakMethod does.  Two kinds of weak references are involved: plain ones to get
 * at the handler, and, while the subscription is active, ones with a callback that ends it.  Those
 * hold the subscription and are held by it; ending it cuts that cycle.
 */
#include "weak.h"

/* Refuses what nobody else will ever hold: it would be gone before its first event. */
static int
check_kept_elsewhere(PyObject *handler)
{
    const char *why = NULL;
    int partial = aeb_is_partial(handler);
    if (partial < 0) {
        return -1;
    }
    if (PyFunction_Check(handler) &&
        PyUnicode_CompareWithASCIIString(aeb_function_name(handler), "<lambda>") == 0) {
        why = "a lambda";
    }
    else if (partial) {
        why = "a functools.partial";
    }
    else if (PyCFunction_Check(handler) && PyCFunction_GET_SELF(handler) != NULL &&
             !PyModule_Check(PyCFunction_GET_SELF(handler))) {
        why = "a method of a built-in object";
    }
    if (why == NULL) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "a weak handler must not be %s: nothing else would hold it, and it would be gone "
                 "at once",
                 why);
    return -1;
}

static PyObject *
plain_reference(PyObject *obj)
{
    PyObject *reference = PyWeakref_NewRef(obj, NULL);
    if (reference == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError,
                     "a weak handler must be weakly referenceable, and objects of type %.200s are "
                     "not",
                     Py_TYPE(obj)->tp_name);
    }
    return reference;
}

int
aeb_weak_hold(aeb_subscription *sub, PyObject *handler)
{
    if (check_kept_elsewhere(handler) < 0) {
        return -1;
    }
    PyObject *name = aeb_handler_name(handler);
    if (name == NULL) {
        return -1;
    }
    PyObject *held = handler;
    if (PyMethod_Check(handler)) {
        held = PyMethod_GET_SELF(handler);
        sub->weak_function = plain_reference(PyMethod_GET_FUNCTION(handler));
        if (sub->weak_function == NULL) {
            Py_DECREF(name);
            return -1;
        }
    }
    PyObject *reference = plain_reference(held);
    if (reference == NULL) {
        Py_DECREF(name);
        return -1;
    }
    Py_XSETREF(sub->handler, reference);
    sub->weak_name = name;
    return 0;
}

/* A weak reference to what `reference` refers to, with the callback; NULL without an exception when
 * that is gone. */
static PyObject *
watching_reference(PyObject *reference, PyObject *callback)
{
    PyObject *target = aeb_weakref_get(reference);
    if (target == NULL) {
        return NULL;
    }
    PyObject *watching = PyWeakref_NewRef(target, callback);
    Py_DECREF(target);
    return watching;
}

int
aeb_weak_watch(aeb_subscription *sub)
{
    PyObject *callback = PyObject_GetAttrString((PyObject *)sub, "_vanish");
    if (callback == NULL) {
        return -1;
    }
    sub->watch = watching_reference(sub->handler, callback);
    if (sub->watch != NULL && sub->weak_function != NULL) {
        sub->watch_function = watching_reference(sub->weak_function, callback);
    }
    Py_DECREF(callback);
    return PyErr_Occurred() ? -1 : 0;
}

void
aeb_weak_unwatch(aeb_subscription *sub)
{
    Py_CLEAR(sub->watch);
    Py_CLEAR(sub->watch_function);
}

PyObject *
aeb_weak_handler(aeb_subscription *sub)
{
    PyObject *held = aeb_weakref_get(sub->handler);
    if (held == NULL || sub->weak_function == NULL) {
        return held;
    }
    PyObject *function = aeb_weakref_get(sub->weak_function), *method = NULL;
    if (function != NULL) {
        method = PyMethod_New(function, held);
    }
    Py_XDECREF(function);
    Py_DECREF(held);
    return method;
}

/* Whether a weak reference is one to this object. */
static bool
refers_to(PyObject *reference, PyObject *obj)
{
    PyObject *target = aeb_weakref_get(reference);
    Py_XDECREF(target); /* `obj` is held by the caller, and anything else is not looked at */
    return target == obj;
}

bool
aeb_weak_same_handler(aeb_subscription *sub, PyObject *handler)
{
    if (sub->weak_function == NULL) {
        return refers_to(sub->handler, handler);
    }
    return PyMethod_Check(handler) && refers_to(sub->handler, PyMethod_GET_SELF(handler)) &&
           refers_to(sub->weak_function, PyMethod_GET_FUNCTION(handler));
}
