/* What the tasks of lazy_task.c need once per interpreter, made when asyncio is first used.
 *
 * That is an object which stands in place of a loop while a task is blank, the arguments that blank
 * tasks are initialised with, and two things which the C API does not offer: asyncio's table of
 * current tasks, and the place where a context holds its variables.  These are looked for and tried
 * here.  Where asyncio.Task or that table is not what is expected there are no such tasks; where the
 * variables are not found a context is merely not used twice.
 */
#include "lazy_parts.h"

/* ---- in place of a loop ---------------------------------------------------------------------- */

static PyObject *
no_loop_get_debug(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

static PyObject *
no_loop_call_soon(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs),
                  PyObject *Py_UNUSED(kwnames))
{
    aeb_state *state = aeb_state_of_type(Py_TYPE(self));
    if (state == NULL || state->no_loop_error == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "agent_event_bus has been unloaded");
        return NULL;
    }
    PyErr_SetNone(state->no_loop_error);
    return NULL;
}

static PyMethodDef no_loop_methods[] = {
    {"get_debug", no_loop_get_debug, METH_NOARGS, NULL},
    {"is_running", no_loop_get_debug, METH_NOARGS, NULL},
    {"call_soon", AEB_METHOD(no_loop_call_soon), METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
no_loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
no_loop_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot no_loop_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What a task that no loop knows has in place of one.")},
    {Py_tp_dealloc, no_loop_dealloc},
    {Py_tp_traverse, no_loop_traverse},
    {Py_tp_methods, no_loop_methods},
    {0, NULL},
};

static PyType_Spec no_loop_spec = {
    .name = "agent_event_bus._core.NoLoop",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = no_loop_slots,
};

/* Several threads can get here at once, for an import lets others run.  The first one's is used, for
 * it may be in use.  0, or -1 when there is nothing to fill the slot with. */
static int
fill(PyObject **slot, PyObject *value_steal)
{
    if (value_steal == NULL) {
        return -1;
    }
    if (*slot == NULL) {
        *slot = value_steal;
    }
    else {
        Py_DECREF(value_steal);
    }
    return 0;
}

static int
make_no_loop(aeb_state *state)
{
    PyTypeObject *type = NULL;
    PyObject *module = aeb_module_of_type(state->bus_type, &aeb_module_def);
    if (module == NULL || aeb_state_add_type(module, &no_loop_spec, &type, false) < 0) {
        return -1;
    }
    int status = fill(&state->no_loop_error, PyErr_NewException("agent_event_bus._core.NoLoopError",
                                                                PyExc_Exception, NULL));
    status = status < 0 ? -1 : fill(&state->no_loop, type->tp_alloc(type, 0));
    Py_DECREF(type);
    return status;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* Whether `task_class` is the C class, of the layout that this file relies on. */
static bool
is_c_task(PyObject *task_class)
{
    PyObject *module = PyImport_ImportModule("_asyncio");
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, "Task");
    PyErr_Clear();
    PyTypeObject *type = (PyTypeObject *)task_class;
    bool result = found != NULL && found == task_class && PyType_Check(found) &&
                  type->tp_weaklistoffset != 0 && type->tp_itemsize == 0 && type->tp_base != NULL &&
                  type->tp_basicsize % (Py_ssize_t)sizeof(void *) == 0;
    Py_XDECREF(found);
    Py_XDECREF(module);
    return result;
}

/* Finds asyncio's table of current tasks, a dict from loop to task, and tries whether it is the one
 * that current_task() looks into.  1 when it is, 0 when it is not, -1. */
static int
find_current_tasks(aeb_state *state)
{
    PyObject *found = NULL, *tasks = NULL, *module = PyImport_ImportModule("_asyncio");
    if (module != NULL) {
        tasks = PyObject_GetAttrString(module, "_current_tasks");
        Py_DECREF(module);
    }
    if (tasks == NULL || !PyDict_CheckExact(tasks)) {
        Py_XDECREF(tasks);
        return PyErr_Occurred() ? aeb_clear_ordinary_exception() : 0;
    }
    PyObject *loop = Py_TYPE(state->no_loop)->tp_alloc(Py_TYPE(state->no_loop), 0);
    int status = loop == NULL ? -1 : PyDict_SetItem(tasks, loop, state->no_loop);
    if (status == 0) {
        found = PyObject_CallOneArg(state->current_task, loop);
        status = found == state->no_loop;
        Py_XDECREF(found);
        PyErr_Clear();
        if (PyDict_DelItem(tasks, loop) < 0) {
            status = -1;
        }
    }
    Py_XDECREF(loop);
    if (status == 1) {
        return fill(&state->current_tasks, tasks) < 0 ? -1 : 1;
    }
    Py_DECREF(tasks);
    return status;
}

static PyObject *
context_after_set(PyObject *variable, PyObject *value)
{
    PyObject *token = PyContextVar_Set(variable, value);
    PyObject *context = token == NULL ? NULL : PyContext_CopyCurrent();
    Py_XDECREF(token);
    return context;
}

/* A context that a handler has not changed can serve the next handler of the emission as well, and
 * that it has not been changed shows at once: contexts hold their variables in an immutable map, so
 * an unchanged one still holds the same.  There is no function to ask for the map, so this looks for
 * the word of a context object in which it is held, by trial: the one that two contexts with equal
 * history share and that a change alters.  Only that word is ever compared, nothing is read through
 * it.  Where no word stands the trial every handler gets a new context. */
static int
find_context_variables(aeb_state *state)
{
    Py_ssize_t context_word = 0;
    PyObject *variable = PyContextVar_New("agent_event_bus.trial", NULL);
    PyObject *outer = PyContext_New(), *copies[4] = {NULL}, *values[] = {Py_None, Py_True, Py_None};
    int status = variable == NULL || outer == NULL ? -1 : PyContext_Enter(outer);
    if (status == 0) {
        for (int i = 0; i < 3; i++) {
            copies[i] = context_after_set(variable, values[i]);
            status |= copies[i] == NULL ? -1 : 0;
        }
        copies[3] = PyContext_CopyCurrent();
        status |= copies[3] == NULL ? -1 : 0;
        (void)PyContext_Exit(outer);
    }
    if (status == 0) {
        Py_ssize_t n = Py_TYPE(outer)->tp_basicsize / (Py_ssize_t)sizeof(void *);
        void **words[4];
        for (int i = 0; i < 4; i++) {
            words[i] = (void **)copies[i];
        }
        Py_ssize_t first = (Py_ssize_t)(sizeof(PyObject) / sizeof(void *)), found = 0;
        for (Py_ssize_t word = first; word < n; word++) {
            if (words[2][word] == words[3][word] && words[2][word] != NULL &&
                words[0][word] != words[1][word] && words[1][word] != words[2][word] &&
                words[0][word] != words[2][word]) {
                context_word = word;
                found++;
            }
        }
        if (found == 1 && Py_TYPE(outer)->tp_weaklistoffset > 0) {
            state->context_word = context_word;
        }
    }
    for (int i = 0; i < 4; i++) {
        Py_XDECREF(copies[i]);
    }
    Py_XDECREF(variable);
    Py_XDECREF(outer);
    return status;
}

/* The arguments of Task.__init__ for a blank task.  The context is an empty one, because the task
 * would else copy the current one and keep what is in it; where tasks cannot be given a context
 * (3.9, 3.10) they do. */
static int
make_blank_arguments(aeb_state *state)
{
    PyObject *coro = (PyObject *)aeb_handler_task_new_idle(state);
    PyObject *context = PyContext_New(), *kwargs = PyDict_New();
    int status = coro == NULL || context == NULL || kwargs == NULL ? -1 : 0;
    if (status == 0) {
        status = fill(&state->blank_args, PyTuple_Pack(1, coro));
    }
    if (status == 0 && (PyDict_SetItem(kwargs, state->str_loop, state->no_loop) < 0 ||
                        PyDict_SetItem(kwargs, state->str_name, state->str_handler_name) < 0)) {
        status = -1;
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (status == 0) {
        status = PyDict_SetItem(kwargs, state->str_context, context);
    }
#endif
    if (status == 0) {
        status = fill(&state->blank_kwargs, Py_NewRef(kwargs));
    }
    Py_XDECREF(kwargs);
    Py_XDECREF(context);
    Py_XDECREF(coro);
    return status;
}

int
aeb_task_load(aeb_state *state, PyObject *task_class)
{
    if (!AEB_LAZY_TASKS || !is_c_task(task_class)) {
        return 0;
    }
    if (state->no_loop == NULL && make_no_loop(state) < 0) {
        return -1;
    }
    int status = find_current_tasks(state);
    if (status <= 0) {
        return status;
    }
    if (find_context_variables(state) < 0 || make_blank_arguments(state) < 0) {
        return -1;
    }
    return aeb_lazy_make_type(state, (PyTypeObject *)task_class);
}
