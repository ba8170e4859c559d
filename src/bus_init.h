/* The options of an EventBus: what its constructor takes, and what can be changed later. */
#ifndef AEB_BUS_INIT_H
#define AEB_BUS_INIT_H

#include "bus_object.h"

/* EventBus.__init__(); called again it sets every option anew.  0 or -1. */
int aeb_bus_init(aeb_bus *bus, PyObject *args, PyObject *kwargs);

/* bus.bind_loop(loop) */
PyObject *aeb_bus_bind_loop(aeb_bus *bus, PyObject *loop);

/* bus.on_error */
PyObject *aeb_bus_get_on_error(aeb_bus *bus, void *closure);
int aeb_bus_set_on_error(aeb_bus *bus, PyObject *on_error, void *closure);

#endif
