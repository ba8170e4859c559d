/* Keys and event names: which texts can be one, and the form that the registry knows them in. */
#include "keys.h"

#include "subscription.h"

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
 * __hash__ of its own, which must never run. */
static PyObject *
exact_str(PyObject *name, const char *what)
{
    PyObject *text = PyUnicode_Check(name) ? Py_NewRef(name) : aeb_enum_value(name);
    if (text == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (text == NULL || !PyUnicode_Check(text)) {
        Py_XDECREF(text);
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.200s", what, Py_TYPE(name)->tp_name);
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

PyObject *
aeb_key_normalize(PyObject *key)
{
    PyObject *exact = exact_str(key, "key");
    if (exact == NULL) {
        return NULL;
    }
    const char *rule = NULL;
    switch (classify_name(exact, &rule)) {
    case NAME_EXACT:
        return exact;
    case NAME_ANY:
        Py_DECREF(exact);
        return PyUnicode_InternFromString("*");
    case NAME_PATTERN:
        PyErr_Format(PyExc_ValueError,
                     "key %R is a pattern: this version supports exact names and '*' only", exact);
        break;
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
    PyObject *exact = exact_str(name, "event name");
    if (exact == NULL) {
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
