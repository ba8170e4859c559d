/* Publishing: events whose handlers are found by the class of an object. */
#ifndef AEB_PUBLISH_H
#define AEB_PUBLISH_H

#include "bus_object.h"

/* The methods of EventBus, and what help() shows of them. */
PyObject *aeb_publish(aeb_bus *bus, PyObject *const *args, Py_ssize_t nargs);
PyObject *aeb_publish_async(aeb_bus *bus, PyObject *const *args, Py_ssize_t nargs);

extern const char aeb_publish_doc[];
extern const char aeb_publish_async_doc[];

#endif
