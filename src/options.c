/* The values of options: what is accepted, and the errors for what is not.
 *
 * A bool is an int to Python and a mistake where a number is meant: it is refused.
 */
#include "options.h"

#include <math.h>

int
aeb_parse_flag(PyObject *value, const char *name, bool *flag)
{
    if (!PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a bool, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    *flag = value == Py_True;
    return 0;
}

int
aeb_parse_priority(PyObject *value, int64_t *priority)
{
    if (!PyLong_Check(value) || PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "priority must be an int, not %.200s",
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    *priority = PyLong_AsLongLong(value);
    if (*priority == -1 && PyErr_Occurred()) {
        PyErr_SetString(PyExc_OverflowError, "priority must fit in 64 bits");
        return -1;
    }
    return 0;
}

/* A whole number of at least `least`; `accepted` says in errors what may be given. */
static int
parse_whole(PyObject *value, const char *name, const char *accepted, int least, Py_ssize_t *whole)
{
    if (!PyLong_Check(value) || PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be %s, not %.200s", name, accepted,
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow > 0 || number > PY_SSIZE_T_MAX) {
        PyErr_Format(PyExc_OverflowError, "%s is too large", name);
        return -1;
    }
    if (overflow < 0 || number < least) {
        PyErr_Format(PyExc_ValueError, "%s must be at least %d, not %S", name, least, value);
        return -1;
    }
    *whole = (Py_ssize_t)number;
    return 0;
}

int
aeb_parse_limit(PyObject *value, const char *name, Py_ssize_t *limit)
{
    *limit = 0;
    return value == Py_None ? 0 : parse_whole(value, name, "an int or None", 1, limit);
}

int
aeb_parse_count(PyObject *value, const char *name, Py_ssize_t *count)
{
    return parse_whole(value, name, "an int", 0, count);
}

int
aeb_parse_seconds(PyObject *value, const char *name, double *seconds)
{
    *seconds = 0.0;
    if (value == Py_None) {
        return 0;
    }
    PyNumberMethods *number = Py_TYPE(value)->tp_as_number;
    bool is_number = number != NULL && (number->nb_float != NULL || number->nb_index != NULL);
    if (!is_number || PyBool_Check(value) || PyComplex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a number of seconds or None, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    double given = PyFloat_AsDouble(value);
    if (given == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) { /* it does not say what is */
            PyErr_Format(PyExc_OverflowError, "%s is too large", name);
        }
        return -1;
    }
    if (!(given > 0.0)) { /* NaN is not, either */
        PyErr_Format(PyExc_ValueError, "%s must be more than 0 seconds, not %S", name, value);
        return -1;
    }
    *seconds = isinf(given) ? 0.0 : given;
    return 0;
}

int
aeb_parse_event(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                PyObject **name, PyObject **payload)
{
    PyObject *given[2] = {nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL};
    Py_ssize_t n_keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n_keywords; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        int at = PyUnicode_CompareWithASCIIString(keyword, "name") == 0 ? 0
                 : payload != NULL && PyUnicode_CompareWithASCIIString(keyword, "payload") == 0
                     ? 1
                     : -1;
        if (at < 0 || given[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got %s '%U'", function,
                         at < 0 ? "an unexpected keyword argument" : "multiple values for argument",
                         keyword);
            return -1;
        }
        given[at] = args[nargs + i];
    }
    if (given[0] == NULL || nargs > (payload != NULL ? 2 : 1)) {
        PyErr_Format(PyExc_TypeError, "%s() takes a name%s (%zd arguments given)", function,
                     payload != NULL ? " and at most one payload" : "", nargs + n_keywords);
        return -1;
    }
    *name = given[0];
    if (payload != NULL) {
        *payload = given[1] != NULL ? given[1] : Py_None;
    }
    return 0;
}
