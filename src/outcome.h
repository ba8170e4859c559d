/* Outcome: what became of one delivery that `collect` or `collect_async` made. */
#ifndef AEB_OUTCOME_H
#define AEB_OUTCOME_H

#include "report.h"
#include "subscription.h"

typedef struct aeb_outcome aeb_outcome;

int aeb_outcome_init_type(PyObject *module, aeb_state *state);

/* Appends the outcome of a delivery that is over.  `result` (borrowed) is what the handler returned
 * or else raised; `began` when it began, in aeb_monotonic() seconds.  0 or -1. */
int aeb_outcome_add(aeb_state *state, PyObject *outcomes, aeb_subscription *sub, aeb_ending ending,
                    PyObject *result, double began);

/* Appends the outcome of a delivery that is still to come, and returns a new reference to it. */
aeb_outcome *aeb_outcome_reserve(aeb_state *state, PyObject *outcomes, aeb_subscription *sub);

/* The delivery begins; its handler has taken so many nanoseconds already. */
void aeb_outcome_begin(aeb_outcome *self, uint64_t took);

/* The delivery is over. */
void aeb_outcome_settle(aeb_outcome *self, aeb_ending ending, PyObject *result);

/* Removes the outcomes of deliveries that never came.  0 or -1. */
int aeb_outcomes_finish(PyObject *outcomes);

#endif
