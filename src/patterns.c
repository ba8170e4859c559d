/* Patterns: which of the keys with a "*" in them match an event name.
 *
 * A trie: one node for each beginning that patterns have in common, in whole segments.
 *
 *     "tool.*"  "tool.*.error"  "tool.**"  "*.error"
 *
 *     root -- "tool" ------ "*" [tool.*] -- "error" [tool.*.error]
 *      |        [tool.**]
 *      +----- "*" --------- "error" [*.error]
 *
 * A pattern stands as `here` at the node where it ends, or, when its last segment is "**", as `rest`
 * at the node before that.  A name is matched one segment after the other, against all nodes that the
 * segments before it can have led to: the frontier.  Each node has at most two successors for a
 * segment, the literal one and "*", so what a match costs depends on the patterns that begin like the
 * name and not on how many there are.
 *
 * Nodes live in one array and refer to each other by index, and all literal edges are in one hash
 * table, from (parent, segment) to the child, chained through the nodes.  There is no recursion, so
 * a pattern or name may have any number of segments; nothing here allocates a Python object but str,
 * and nothing runs Python code.
 */
#include "patterns.h"

#include <string.h>

/* The root is never a child or a member of a chain, so its index stands for none. */
#define ROOT 0
#define NONE 0

#define MAX_NODES (UINT32_MAX / 2)

typedef struct {
    PyObject *segment; /* str; NULL at the root, at "*" and in unused nodes */
    PyObject *here;    /* str: the pattern that ends here, or NULL */
    PyObject *rest;    /* str: the pattern that goes on with a last "**", or NULL */
    uint32_t hash;     /* of the segment */
    uint32_t parent;
    uint32_t star; /* the child for "*" */
    uint32_t next; /* in the chain of the hash table, or in that of the unused nodes */
    uint32_t n_children;
} node;

struct aeb_patterns {
    node *nodes;
    uint32_t n_nodes; /* ever used, the unused ones among them */
    uint32_t capacity;
    uint32_t first_unused;
    uint32_t *buckets;  /* the first nodes of the chains */
    uint32_t n_buckets; /* a power of two */
    uint32_t n_edges;
};

/* ---- segments -------------------------------------------------------------------------------- */

/* A text, and the segment of it that is looked at. */
typedef struct {
    int kind;
    const void *data;
    Py_ssize_t length;
    Py_ssize_t start;
    Py_ssize_t end; /* of the segment; -1 before the first */
} segments;

static segments
segments_of(PyObject *text)
{
    return (segments){
        .kind = PyUnicode_KIND(text),
        .data = PyUnicode_DATA(text),
        .length = PyUnicode_GET_LENGTH(text),
        .end = -1,
    };
}

static bool
next_segment(segments *at)
{
    if (at->end == at->length) {
        return false;
    }
    at->start = at->end + 1;
    at->end = at->start;
    while (at->end < at->length && PyUnicode_READ(at->kind, at->data, at->end) != '.') {
        at->end++;
    }
    return true;
}

static Py_ssize_t
segment_length(const segments *at)
{
    return at->end - at->start;
}

/* Whether it consists of so many stars. */
static bool
segment_is_stars(const segments *at, Py_ssize_t stars)
{
    return segment_length(at) == stars && PyUnicode_READ(at->kind, at->data, at->start) == '*' &&
           PyUnicode_READ(at->kind, at->data, at->end - 1) == '*';
}

/* FNV-1a over the characters, which may be stored in another width in the name than in the pattern. */
static uint32_t
segment_hash(const segments *at)
{
    uint32_t hash = 2166136261u;
    for (Py_ssize_t i = at->start; i < at->end; i++) {
        hash = (hash ^ PyUnicode_READ(at->kind, at->data, i)) * 16777619u;
    }
    return hash;
}

static bool
segment_equals(const segments *at, PyObject *text)
{
    Py_ssize_t length = segment_length(at);
    if (PyUnicode_GET_LENGTH(text) != length) {
        return false;
    }
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    if (kind == at->kind) {
        return memcmp(data, (const char *)at->data + at->start * kind, (size_t)(length * kind)) ==
               0;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        if (PyUnicode_READ(kind, data, i) != PyUnicode_READ(at->kind, at->data, at->start + i)) {
            return false;
        }
    }
    return true;
}

/* ---- edges ----------------------------------------------------------------------------------- */

static uint32_t *
bucket_of(const aeb_patterns *self, uint32_t parent, uint32_t hash)
{
    uint32_t mixed = (hash ^ parent * 2654435769u) * 2246822507u;
    return &self->buckets[(mixed ^ mixed >> 15) & (self->n_buckets - 1)];
}

static uint32_t
find_child(const aeb_patterns *self, uint32_t parent, const segments *at, uint32_t hash)
{
    uint32_t index = *bucket_of(self, parent, hash);
    while (index != NONE) {
        const node *child = &self->nodes[index];
        if (child->hash == hash && child->parent == parent && segment_equals(at, child->segment)) {
            return index;
        }
        index = child->next;
    }
    return NONE;
}

static void
link_edge(aeb_patterns *self, uint32_t index)
{
    node *child = &self->nodes[index];
    uint32_t *bucket = bucket_of(self, child->parent, child->hash);
    child->next = *bucket;
    *bucket = index;
}

static void
unlink_edge(aeb_patterns *self, uint32_t index)
{
    node *child = &self->nodes[index];
    uint32_t *link = bucket_of(self, child->parent, child->hash);
    while (*link != index) {
        link = &self->nodes[*link].next;
    }
    *link = child->next;
    self->n_edges--;
}

static int
reserve_edge(aeb_patterns *self)
{
    if (self->n_edges < self->n_buckets) {
        return 0;
    }
    uint32_t *old = self->buckets, n_old = self->n_buckets;
    uint32_t n_buckets = n_old == 0 ? 16 : 2 * n_old;
    uint32_t *buckets = PyMem_Calloc(n_buckets, sizeof(uint32_t));
    if (buckets == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->buckets = buckets;
    self->n_buckets = n_buckets;
    for (uint32_t i = 0; i < n_old; i++) {
        for (uint32_t index = old[i], next; index != NONE; index = next) {
            next = self->nodes[index].next;
            link_edge(self, index);
        }
    }
    PyMem_Free(old);
    return 0;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* The index of a fresh node, NONE with MemoryError. */
static uint32_t
new_node(aeb_patterns *self)
{
    if (self->first_unused != NONE) {
        uint32_t index = self->first_unused;
        self->first_unused = self->nodes[index].next;
        self->nodes[index] = (node){.segment = NULL};
        return index;
    }
    if (self->n_nodes == self->capacity) {
        uint32_t capacity = self->capacity == 0 ? 16 : 2 * self->capacity;
        node *grown = capacity > MAX_NODES
                          ? NULL
                          : PyMem_Realloc(self->nodes, (size_t)capacity * sizeof(node));
        if (grown == NULL) {
            PyErr_NoMemory();
            return NONE;
        }
        self->nodes = grown;
        self->capacity = capacity;
    }
    self->nodes[self->n_nodes] = (node){.segment = NULL};
    return self->n_nodes++;
}

/* The child of a node for the segment, made when there is none.  NONE with MemoryError. */
static uint32_t
require_child(aeb_patterns *self, uint32_t parent, const segments *at, PyObject *key)
{
    bool star = segment_is_stars(at, 1);
    uint32_t hash = star ? 0 : segment_hash(at);
    if (star && self->nodes[parent].star != NONE) {
        return self->nodes[parent].star;
    }
    if (!star) {
        if (reserve_edge(self) < 0) {
            return NONE;
        }
        uint32_t found = find_child(self, parent, at, hash);
        if (found != NONE) {
            return found;
        }
    }
    PyObject *segment = star ? NULL : PyUnicode_Substring(key, at->start, at->end);
    if (!star && segment == NULL) {
        return NONE;
    }
    uint32_t index = new_node(self);
    if (index == NONE) {
        Py_XDECREF(segment);
        return NONE;
    }
    self->nodes[index].segment = segment;
    self->nodes[index].hash = hash;
    self->nodes[index].parent = parent;
    self->nodes[parent].n_children++;
    if (star) {
        self->nodes[parent].star = index;
    }
    else {
        link_edge(self, index);
        self->n_edges++;
    }
    return index;
}

/* Gives up a node that no pattern needs any more, and those above it that this leaves unneeded. */
static void
prune(aeb_patterns *self, uint32_t index)
{
    while (index != ROOT) {
        node *leaf = &self->nodes[index];
        uint32_t parent = leaf->parent;
        if (leaf->n_children > 0 || leaf->here != NULL || leaf->rest != NULL) {
            return;
        }
        if (leaf->segment == NULL) {
            self->nodes[parent].star = NONE;
        }
        else {
            unlink_edge(self, index);
            Py_CLEAR(leaf->segment);
        }
        self->nodes[parent].n_children--;
        leaf->next = self->first_unused;
        self->first_unused = index;
        index = parent;
    }
}

static void
free_if_empty(aeb_patterns **patterns)
{
    aeb_patterns *self = *patterns;
    if (self->nodes[ROOT].n_children == 0) {
        *patterns = NULL;
        aeb_patterns_free(self);
    }
}

/* ---- what others call ------------------------------------------------------------------------ */

int
aeb_patterns_add(aeb_patterns **patterns, PyObject *key)
{
    if (*patterns == NULL) {
        aeb_patterns *fresh = PyMem_Calloc(1, sizeof(aeb_patterns));
        if (fresh == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        (void)new_node(fresh); /* the root; its index is the one that stands for a failure */
        if (fresh->n_nodes == 0 || reserve_edge(fresh) < 0) {
            aeb_patterns_free(fresh);
            return -1;
        }
        *patterns = fresh;
    }
    aeb_patterns *self = *patterns;
    segments at = segments_of(key);
    uint32_t index = ROOT;
    while (next_segment(&at)) {
        if (segment_is_stars(&at, 2)) {
            self->nodes[index].rest = Py_NewRef(key);
            return 0;
        }
        uint32_t child = require_child(self, index, &at, key);
        if (child == NONE) {
            prune(self, index);
            free_if_empty(patterns);
            return -1;
        }
        index = child;
    }
    self->nodes[index].here = Py_NewRef(key);
    return 0;
}

/* The field where a pattern stands, in the node *index; NULL where it does not. */
static PyObject **
find_pattern(aeb_patterns *self, PyObject *key, uint32_t *index)
{
    segments at = segments_of(key);
    *index = ROOT;
    while (next_segment(&at)) {
        if (segment_is_stars(&at, 2)) {
            return &self->nodes[*index].rest;
        }
        *index = segment_is_stars(&at, 1) ? self->nodes[*index].star
                                          : find_child(self, *index, &at, segment_hash(&at));
        if (*index == NONE) {
            return NULL;
        }
    }
    return &self->nodes[*index].here;
}

void
aeb_patterns_remove(aeb_patterns **patterns, PyObject *key)
{
    aeb_patterns *self = *patterns;
    uint32_t index;
    PyObject **place = self == NULL ? NULL : find_pattern(self, key, &index);
    if (place == NULL) {
        return;
    }
    Py_CLEAR(*place);
    prune(self, index);
    free_if_empty(patterns);
}

/* Nodes that the segments so far can have led to. */
typedef struct {
    uint32_t *items;
    size_t n;
    size_t capacity;
    uint32_t fixed[32]; /* what `items` points to as long as these suffice */
} frontier;

static int
frontier_add(frontier *self, uint32_t index)
{
    if (self->n == self->capacity) {
        size_t size = self->n * sizeof(uint32_t);
        uint32_t *grown = PyMem_Realloc(self->items == self->fixed ? NULL : self->items, 2 * size);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if (self->items == self->fixed) {
            memcpy(grown, self->fixed, size);
        }
        self->items = grown;
        self->capacity *= 2;
    }
    self->items[self->n++] = index;
    return 0;
}

static void
frontier_init(frontier *self)
{
    self->items = self->fixed;
    self->n = 0;
    self->capacity = Py_ARRAY_LENGTH(self->fixed);
}

static void
frontier_free(frontier *self)
{
    if (self->items != self->fixed) {
        PyMem_Free(self->items);
    }
}

/* Goes on from the nodes in `from` to those that a segment leads to.  0 or -1. */
static int
advance(const aeb_patterns *self, const segments *at, const frontier *from, frontier *to,
        int (*found)(void *context, PyObject *key), void *context)
{
    uint32_t hash = segment_hash(at);
    to->n = 0;
    for (size_t i = 0; i < from->n; i++) {
        uint32_t index = from->items[i];
        PyObject *rest = self->nodes[index].rest;
        if (rest != NULL && found(context, rest) < 0) {
            return -1;
        }
        uint32_t child = find_child(self, index, at, hash), star = self->nodes[index].star;
        if ((child != NONE && frontier_add(to, child) < 0) ||
            (star != NONE && frontier_add(to, star) < 0)) {
            return -1;
        }
    }
    return 0;
}

int
aeb_patterns_match(const aeb_patterns *self, PyObject *name,
                   int (*found)(void *context, PyObject *key), void *context)
{
    if (self == NULL) {
        return 0;
    }
    frontier frontiers[2], *from = &frontiers[0], *to = &frontiers[1];
    frontier_init(from);
    frontier_init(to);
    segments at = segments_of(name);
    int status = frontier_add(from, ROOT);
    while (status == 0 && from->n > 0 && next_segment(&at)) {
        status = advance(self, &at, from, to, found, context);
        frontier *swapped = from;
        from = to;
        to = swapped;
    }
    for (size_t i = 0; status == 0 && i < from->n; i++) {
        PyObject *here = self->nodes[from->items[i]].here;
        status = here == NULL ? 0 : found(context, here);
    }
    frontier_free(from);
    frontier_free(to);
    return status;
}

void
aeb_patterns_free(aeb_patterns *self)
{
    if (self == NULL) {
        return;
    }
    for (uint32_t i = 0; i < self->n_nodes; i++) {
        Py_CLEAR(self->nodes[i].segment);
        Py_CLEAR(self->nodes[i].here);
        Py_CLEAR(self->nodes[i].rest);
    }
    PyMem_Free(self->nodes);
    PyMem_Free(self->buckets);
    PyMem_Free(self);
}
