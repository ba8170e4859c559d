/* EventBus: its methods, GC and type.  What they do is delegated. */
#ifndef AEB_BUS_H
#define AEB_BUS_H

#include "bus_object.h"

int aeb_bus_init_types(PyObject *module, aeb_state *state);

#endif
