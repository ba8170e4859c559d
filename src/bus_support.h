/* What the Python class agent_event_bus.EventBus builds its methods from. */
#ifndef AEB_BUS_SUPPORT_H
#define AEB_BUS_SUPPORT_H

#include "bus_object.h"

/* bus._define_event(name, schema, checker) */
PyObject *aeb_bus_define_event(aeb_bus *bus, PyObject *args);

/* bus._pending(): the deliveries that emit() has scheduled and that are not over */
PyObject *aeb_bus_pending(aeb_bus *bus, PyObject *ignored);

/* bus._own_delivery(): the one whose handler calls this, or None */
PyObject *aeb_bus_own_delivery(aeb_bus *bus, PyObject *ignored);

/* bus._when_idle(callback, ignore_parked) */
PyObject *aeb_bus_when_idle(aeb_bus *bus, PyObject *args);

/* bus._forget_idle(callback) */
PyObject *aeb_bus_forget_idle(aeb_bus *bus, PyObject *callback);

/* bus._park(delivery, parked) */
PyObject *aeb_bus_park(aeb_bus *bus, PyObject *args);

/* bus._give_up_permits(): those of the handler that calls this */
PyObject *aeb_bus_give_up_permits(aeb_bus *bus, PyObject *ignored);

/* bus._close(): deliver nothing any more */
PyObject *aeb_bus_close(aeb_bus *bus, PyObject *ignored);

/* bus._subscriptions(): every one, once for each of its keys */
PyObject *aeb_bus_subscriptions(aeb_bus *bus, PyObject *ignored);

#endif
