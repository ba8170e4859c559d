/* Statistics: what a bus has counted. */
#ifndef AEB_STATS_H
#define AEB_STATS_H

#include "bus_object.h"

/* The method stats(): all of it, as a new dict. */
PyObject *aeb_stats(aeb_bus *bus, PyObject *Py_UNUSED(ignored));
extern const char aeb_stats_doc[];

#endif
