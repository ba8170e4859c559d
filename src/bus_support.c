/* What the Python class agent_event_bus.EventBus builds its methods from: the core's part of them. */
#include "bus_support.h"

#include "permit.h"
#include "registry.h"
#include "schedule.h"
#include "schema.h"

PyObject *
aeb_bus_define_event(aeb_bus *self, PyObject *args)
{
    PyObject *name, *schema, *checker;
    if (!PyArg_ParseTuple(args, "OOO:_define_event", &name, &schema, &checker) ||
        aeb_schema_define(self, name, schema, checker) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_pending(aeb_bus *self, PyObject *Py_UNUSED(ignored))
{
    return aeb_schedule_pending(self);
}

PyObject *
aeb_bus_own_delivery(aeb_bus *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *own;
    if (aeb_schedule_own_delivery(self, &own) < 0) {
        return NULL;
    }
    return own != NULL ? own : Py_NewRef(Py_None);
}

PyObject *
aeb_bus_when_idle(aeb_bus *self, PyObject *args)
{
    PyObject *callback;
    int ignore_parked;
    if (!PyArg_ParseTuple(args, "Op:_when_idle", &callback, &ignore_parked) ||
        aeb_schedule_when_idle(self, callback, ignore_parked) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_forget_idle(aeb_bus *self, PyObject *callback)
{
    aeb_schedule_forget_callback(self, callback);
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_park(aeb_bus *self, PyObject *args)
{
    PyObject *delivery;
    int parked;
    if (!PyArg_ParseTuple(args, "Op:_park", &delivery, &parked) ||
        aeb_schedule_park(self, delivery, parked) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_give_up_permits(aeb_bus *self, PyObject *Py_UNUSED(ignored))
{
    if (aeb_permit_give_up_own(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_close(aeb_bus *self, PyObject *Py_UNUSED(ignored))
{
    AEB_STORE(self->closed, true);
    AEB_STORE(self->emit_barred, true);
    Py_RETURN_NONE;
}

PyObject *
aeb_bus_subscriptions(aeb_bus *self, PyObject *Py_UNUSED(ignored))
{
    return aeb_registry_find(self, NULL, NULL);
}
