/* Keys and event names: what can be one, and the form that the registry knows it in. */
#include "keys.h"

#include "subscription.h"

/* How much of the repr of a bad key an error message quotes, in characters. */
#define MAX_SHOWN 200

typedef enum { NAME_EXACT, NAME_ANY, NAME_PATTERN, NAME_BAD } name_kind;

/* Classifies a key; for NAME_BAD *rule is the rule that it breaks. */
static name_kind
classify_name(PyObject *name, const char **rule)
{
    int kind = PyUnicode_KIND(name);
    const void *data = PyUnicode_DATA(name);
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    Py_ssize_t segment_start = 0, stars_seen = 0;
    bool pattern = false;

    if (length == 0) {
        *rule = "it is empty";
        return NAME_BAD;
    }
    for (Py_ssize_t i = 0; i <= length; i++) {
        Py_UCS4 c = i < length ? PyUnicode_READ(kind, data, i) : '.';
        if (c == '*') {
            stars_seen++;
            continue;
        }
        if (c != '.') {
            continue;
        }
        Py_ssize_t segment_length = i - segment_start;
        if (segment_length == 0) {
            *rule = "a segment between dots is empty";
            return NAME_BAD;
        }
        if (stars_seen > 0) {
            if (stars_seen != segment_length || stars_seen > 2) {
                *rule = "'*' must be a whole segment, not glued to other characters";
                return NAME_BAD;
            }
            if (stars_seen == 2 && i < length) {
                *rule = "'**' must be the last segment";
                return NAME_BAD;
            }
            pattern = true;
        }
        segment_start = i + 1;
        stars_seen = 0;
    }
    if (!pattern) {
        return NAME_EXACT;
    }
    Py_UCS4 first = PyUnicode_READ(kind, data, 0);
    return length <= 2 && first == '*' && PyUnicode_READ(kind, data, length - 1) == '*'
               ? NAME_ANY
               : NAME_PATTERN;
}

/* name, or the value of the enum member it is, as an exact str: a subclass may have an __eq__ and a
 * __hash__ of its own, which must never run.  NULL, without an exception, when it is no text. */
static PyObject *
exact_str(PyObject *name)
{
    PyObject *text = PyUnicode_Check(name) ? Py_NewRef(name) : aeb_enum_value(name);
    if (text == NULL || !PyUnicode_Check(text)) {
        Py_XDECREF(text);
        return NULL;
    }
    PyObject *exact = PyUnicode_FromObject(text);
    Py_DECREF(text);
#if PY_VERSION_HEX < 0x030C0000
    if (exact != NULL && PyUnicode_READY(exact) < 0) {
        Py_CLEAR(exact);
    }
#endif
    return exact;
}

/* TypeError for what is neither a text nor a class. */
static void
refuse_key(PyObject *key)
{
    /* The name of the class is read after each call: its repr may have given it another one. */
    PyObject *shown = PyObject_Repr(key);
    if (shown == NULL) {
        if (aeb_clear_ordinary_exception() < 0) {
            return;
        }
        PyErr_Format(PyExc_TypeError, "a key must be a str or a class, not %.200s",
                     Py_TYPE(key)->tp_name);
        return;
    }
    if (PyUnicode_GET_LENGTH(shown) > MAX_SHOWN) {
        Py_SETREF(shown, PyUnicode_Substring(shown, 0, MAX_SHOWN));
    }
    if (shown != NULL) {
        PyErr_Format(PyExc_TypeError, "bad key %U: it must be a str or a class, not %.200s", shown,
                     Py_TYPE(key)->tp_name);
        Py_DECREF(shown);
    }
}

PyObject *
aeb_key_normalize(PyObject *key)
{
    if (PyType_Check(key)) {
        return Py_NewRef(key);
    }
    PyObject *exact = exact_str(key);
    if (exact == NULL) {
        if (!PyErr_Occurred()) {
            refuse_key(key);
        }
        return NULL;
    }
    const char *rule = NULL;
    switch (classify_name(exact, &rule)) {
    case NAME_EXACT:
    case NAME_PATTERN:
        return exact;
    case NAME_ANY:
        Py_DECREF(exact);
        return PyUnicode_InternFromString("*");
    case NAME_BAD:
        PyErr_Format(PyExc_ValueError, "bad key %R: %s", exact, rule);
        break;
    }
    Py_DECREF(exact);
    return NULL;
}

PyObject *
aeb_event_name_normalize(PyObject *name)
{
    PyObject *exact = exact_str(name);
    if (exact == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "event name must be a str, not %.200s",
                         Py_TYPE(name)->tp_name);
        }
        return NULL;
    }
    const char *rule = "it is a pattern, and a pattern is not an event";
    if (classify_name(exact, &rule) == NAME_EXACT) {
        return exact;
    }
    PyErr_Format(PyExc_ValueError, "bad event name %R: %s", exact, rule);
    Py_DECREF(exact);
    return NULL;
}

bool
aeb_key_has_star(PyObject *key)
{
    return PyUnicode_CheckExact(key) &&
           PyUnicode_FindChar(key, '*', 0, PyUnicode_GET_LENGTH(key), 1) >= 0;
}

PyObject *
aeb_key_listed(PyObject *key)
{
    return PyUnicode_CheckExact(key) ? Py_NewRef(key) : PyLong_FromVoidPtr(key);
}

PyObject *
aeb_keys_listed(PyObject *keys)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys), n_classes = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        n_classes += !PyUnicode_CheckExact(PyTuple_GET_ITEM(keys, i));
    }
    if (n_classes == 0) {
        return Py_NewRef(keys);
    }
    PyObject *all_listed = PyTuple_New(n);
    for (Py_ssize_t i = 0; all_listed != NULL && i < n; i++) {
        PyObject *listed = aeb_key_listed(PyTuple_GET_ITEM(keys, i));
        if (listed == NULL) {
            Py_CLEAR(all_listed);
            break;
        }
        PyTuple_SET_ITEM(all_listed, i, listed);
    }
    return all_listed;
}
