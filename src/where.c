/* Conditions: what the option `where` asks of a payload.
 *
 * A mapping is taken apart when the handler is subscribed, so a later change of it has no effect and
 * no key of it is hashed or compared again.  Payloads are strangers: looking something up in them can
 * run any code, so everything that is looked at is held meanwhile.
 */
#include "where.h"

#include "subscription.h"

/* Whether an object is asked for items and not for attributes.  Python classes with a __getitem__ are
 * mappings to C whatever they are, so what counts is that they have keys.  1, 0 or -1. */
static int
is_mapping(PyObject *obj)
{
    if (PyDict_Check(obj)) {
        return 1;
    }
    if (!PyMapping_Check(obj) || PyType_Check(obj)) {
        return 0;
    }
    PyObject *keys;
    int status = aeb_get_attribute((PyObject *)Py_TYPE(obj), "keys", &keys);
    bool found = keys != NULL;
    Py_XDECREF(keys);
    return status < 0 ? -1 : found;
}

static PyObject *
compile_mapping(PyObject *where)
{
    PyObject *items = PyMapping_Items(where), *compiled = NULL;
    if (items == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyList_GET_SIZE(items);
    compiled = PyTuple_New(2 * n);
    for (Py_ssize_t i = 0; compiled != NULL && i < n; i++) {
        PyObject *field, *value;
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
            PyErr_SetString(PyExc_TypeError, "where has items that are not pairs");
            Py_CLEAR(compiled);
            break;
        }
        field = PyTuple_GET_ITEM(item, 0);
        value = PyTuple_GET_ITEM(item, 1);
        if (!PyUnicode_Check(field)) {
            PyErr_Format(PyExc_TypeError,
                         "where must map names of fields, which are str, not %.200s",
                         Py_TYPE(field)->tp_name);
            Py_CLEAR(compiled);
            break;
        }
        PyObject *exact = PyUnicode_FromObject(field); /* a subclass may have its own __eq__ */
        if (exact == NULL) {
            Py_CLEAR(compiled);
            break;
        }
        PyTuple_SET_ITEM(compiled, 2 * i, exact);
        PyTuple_SET_ITEM(compiled, 2 * i + 1, Py_NewRef(value));
    }
    Py_DECREF(items);
    return compiled;
}

PyObject *
aeb_where_compile(PyObject *where)
{
    int mapping = is_mapping(where);
    if (mapping != 0) {
        return mapping < 0 ? NULL : compile_mapping(where);
    }
    if (!PyCallable_Check(where)) {
        PyErr_Format(PyExc_TypeError, "where must be a callable or a mapping, not %.200s",
                     Py_TYPE(where)->tp_name);
        return NULL;
    }
    int is_async = aeb_is_coroutine_function(where);
    if (is_async > 0) {
        PyErr_SetString(PyExc_TypeError,
                        "where must not be a coroutine function: nobody would await it");
    }
    return is_async == 0 ? Py_NewRef(where) : NULL;
}

/* Clears the pending exception when it is of `type`: 0, else -1. */
static int
is_missing(PyObject *type)
{
    if (!PyErr_ExceptionMatches(type)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* A field of the payload: 1 with a new reference, 0 when there is none, -1. */
static int
get_field(PyObject *payload, int mapping, PyObject *field, PyObject **value)
{
    if (PyDict_Check(payload)) {
        /* Not by its own __getitem__: a defaultdict would make the item that is asked for. */
        return aeb_dict_get(payload, field, value);
    }
    if (mapping) {
        *value = PyObject_GetItem(payload, field);
        return *value != NULL ? 1 : is_missing(PyExc_KeyError);
    }
    *value = PyObject_GetAttr(payload, field);
    return *value != NULL ? 1 : is_missing(PyExc_AttributeError);
}

/* Whether the value of a field is the one that is asked for, as a dict compares: 1, 0 or -1.  Most are
 * strings, and what PyObject_RichCompareBool() does around their comparison takes longer than that. */
static inline int
values_equal(PyObject *value, PyObject *wanted)
{
    if (value == wanted) {
        return 1;
    }
    if (AEB_LIKELY(PyUnicode_CheckExact(value) && PyUnicode_CheckExact(wanted))) {
        PyObject *answer = PyUnicode_RichCompare(value, wanted, Py_EQ);
        int equal = answer == NULL ? -1 : answer == Py_True;
        Py_XDECREF(answer);
        return equal;
    }
    return PyObject_RichCompareBool(value, wanted, Py_EQ);
}

int
aeb_where_matches(PyObject *compiled, PyObject *payload)
{
    if (!PyTuple_CheckExact(compiled)) {
        PyObject *answer = PyObject_CallOneArg(compiled, payload);
        if (answer == NULL) {
            return -1;
        }
        int matches = PyObject_IsTrue(answer);
        Py_DECREF(answer);
        return matches;
    }
    int matches = 1, mapping = is_mapping(payload);
    if (mapping < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; matches > 0 && i < PyTuple_GET_SIZE(compiled); i += 2) {
        PyObject *value;
        matches = get_field(payload, mapping, PyTuple_GET_ITEM(compiled, i), &value);
        if (matches > 0) {
            matches = values_equal(value, PyTuple_GET_ITEM(compiled, i + 1));
            Py_DECREF(value);
        }
    }
    return matches;
}
