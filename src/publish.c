/* Publishing: events whose handlers are found by the class of an object.
 *
 * From its plan on, the publication of an object is the emission of an event whose name is the
 * qualified name of the class.
 */
#include "publish.h"

#include "emission.h"
#include "emitter.h"
#include "report.h"

const char aeb_publish_doc[] =
    "publish($self, obj, /)\n--\n\n"
    "Deliver an object to the handlers of its class and of the classes it is derived from; return\n"
    "how many handlers were called or started, failing ones included.\n\n"
    "Handlers subscribed to a class are called with the object. The event has the name\n"
    "type(obj).__qualname__ and the object as its payload, and reaches the handlers of that name, "
    "of\n"
    "patterns that match it and of \"*\" as well. Everything else is as with emit(), also that an\n"
    "async_only bus raises RuntimeError. No schema is asked, and a strict bus takes any object.";

const char aeb_publish_async_doc[] =
    "publish_async($self, obj, /)\n--\n\n"
    "Return a coroutine object that delivers an object when it is awaited: publish() with what\n"
    "emit_async() does about async handlers, cancellation and errors.";

static int
check_one_object(const char *function, Py_ssize_t nargs)
{
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes one object (%zd arguments given)", function,
                     nargs);
        return -1;
    }
    return 0;
}

/* What publish() does on a bus with emit_barred, as aeb_emit_barred() for emit(). */
static PyObject *
publish_barred(aeb_bus *bus, PyObject *obj)
{
    if (!AEB_LOAD(bus->closed)) {
        PyErr_SetString(PyExc_RuntimeError, "the bus is async_only: await publish_async() instead");
        return NULL;
    }
    PyObject *name = aeb_class_name(Py_TYPE(obj));
    int status = name == NULL ? -1 : aeb_report_closed(bus, name);
    Py_XDECREF(name);
    return status < 0 ? NULL : PyLong_FromLong(0);
}

PyObject *
aeb_publish(aeb_bus *bus, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_one_object("publish", nargs) < 0) {
        return NULL;
    }
    if (AEB_UNLIKELY(AEB_LOAD(bus->emit_barred))) {
        return publish_barred(bus, args[0]);
    }
    aeb_plan *plan = aeb_registry_class_plan(bus, Py_TYPE(args[0]));
    if (plan == NULL) {
        return NULL;
    }
    PyObject *count = aeb_emit(bus, plan, args[0], true);
    Py_DECREF(plan);
    return count;
}

PyObject *
aeb_publish_async(aeb_bus *bus, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_one_object("publish_async", nargs) < 0) {
        return NULL;
    }
    return aeb_emission_of_object(bus, args[0]);
}
