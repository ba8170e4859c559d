/* Collecting: emissions that answer with what became of each handler. */
#ifndef AEB_COLLECT_H
#define AEB_COLLECT_H

#include "bus_object.h"

/* Delivers an event here and now, and returns a list of Outcome; NULL with RuntimeError when that
 * would hold up a running loop. */
PyObject *aeb_collect(aeb_bus *bus, PyObject *name, PyObject *payload);

#endif
