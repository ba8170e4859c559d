/* Handlers with options that most do not have, and what all handlers of some buses need: the slow way
 * to call them. */
#ifndef AEB_CAREFUL_H
#define AEB_CAREFUL_H

#include "dispatch.h"

/* aeb_dispatch_sync() for plans with AEB_PLAN_CAREFUL. */
Py_ssize_t aeb_dispatch_carefully(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                                  PyObject **late);

#endif
