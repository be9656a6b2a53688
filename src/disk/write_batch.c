#include "disk/write_batch.h"

#include <string.h>

#include "base/error.h"

enum { RECORD_DATA = 1, RECORD_ZEROS = 2 };

#define ZEROS_MAX_BYTES (1u << 30) /* in one record */
#define PIECE_COST 160u            /* to keep a piece, with its place in the tree */

/* What one write brought; pieces of it may be left when others have covered the rest. */
typedef struct {
    guint references;
    uint64_t length;
    uint8_t bytes[];
} Content;

typedef struct {
    uint64_t offset, length; /* of the disk */
    Content *content;        /* NULL: zeros */
    uint64_t from;           /* in the content */
} Piece;

struct WriteBatch {
    GTree **disks; /* of Piece, by its offset */
    guint count;
    uint64_t cost;
};

static gint compare_offsets(gconstpointer a, gconstpointer b, gpointer unused G_GNUC_UNUSED)
{
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

    return one < other ? -1 : one > other;
}

WriteBatch *write_batch_new(guint disks)
{
    WriteBatch *batch = g_new0(WriteBatch, 1);

    batch->count = disks;
    batch->disks = g_new0(GTree *, disks);
    for (guint i = 0; i < disks; i++)
        batch->disks[i] = g_tree_new_full(compare_offsets, NULL, NULL, NULL);
    return batch;
}

static uint64_t end_of(const Piece *piece)
{
    return piece->offset + piece->length;
}

/* ---- pieces ---- */

static void let_go(WriteBatch *batch, Content *content)
{
    if (!content || --content->references > 0)
        return;
    batch->cost -= content->length;
    g_free(content);
}

static void insert(WriteBatch *batch, guint disk, const Piece *piece)
{
    Piece *kept = g_memdup2(piece, sizeof *piece);

    if (kept->content)
        kept->content->references++;
    batch->cost += PIECE_COST;
    g_tree_insert(batch->disks[disk], kept, kept); /* its key is its first member */
}

static void drop(WriteBatch *batch, guint disk, Piece *piece)
{
    g_tree_remove(batch->disks[disk], &piece->offset);
    batch->cost -= PIECE_COST;
    let_go(batch, piece->content);
    g_free(piece);
}

static Piece part_of(const Piece *piece, uint64_t from, uint64_t to)
{
    return (Piece){.offset = from,
                   .length = to - from,
                   .content = piece->content,
                   .from = piece->from + (from - piece->offset)};
}

/* The first piece that reaches beyond *offset*, or NULL. */
static Piece *find_from(const WriteBatch *batch, guint disk, uint64_t offset)
{
    GTree *tree = batch->disks[disk];
    GTreeNode *next = g_tree_upper_bound(tree, &offset);
    GTreeNode *before = next ? g_tree_node_previous(next) : g_tree_node_last(tree);
    Piece *piece = before ? g_tree_node_value(before) : NULL;

    if (piece && end_of(piece) > offset)
        return piece;
    return next ? g_tree_node_value(next) : NULL;
}

/* Nothing of the range is left. */
static void carve(WriteBatch *batch, guint disk, uint64_t from, uint64_t to)
{
    Piece *piece;

    while ((piece = find_from(batch, disk, from)) && piece->offset < to) {
        Piece head = part_of(piece, piece->offset, MAX(piece->offset, MIN(from, end_of(piece))));
        Piece tail = part_of(piece, MIN(to, end_of(piece)), end_of(piece));

        if (piece->content)
            piece->content->references++;
        drop(batch, disk, piece);
        if (head.length > 0)
            insert(batch, disk, &head);
        if (tail.length > 0)
            insert(batch, disk, &tail);
        let_go(batch, head.content);
    }
}

static void put(WriteBatch *batch, guint disk, const Piece *piece)
{
    carve(batch, disk, piece->offset, end_of(piece));
    insert(batch, disk, piece);
}

void write_batch_add(WriteBatch *batch, guint disk, uint64_t offset, uint64_t length,
                     const uint8_t *data)
{
    Piece piece = {.offset = offset, .length = length};

    if (length == 0)
        return;
    if (data) {
        piece.content = g_malloc(sizeof *piece.content + length);
        piece.content->references = 1;
        piece.content->length = length;
        memcpy(piece.content->bytes, data, length);
        batch->cost += length;
    }
    put(batch, disk, &piece);
    let_go(batch, piece.content);
}

/* ---- whole batches ---- */

static void clear_disk(WriteBatch *batch, guint disk)
{
    GTreeNode *first;

    while ((first = g_tree_node_first(batch->disks[disk])))
        drop(batch, disk, g_tree_node_value(first));
}

void write_batch_free(WriteBatch *batch)
{
    if (!batch)
        return;
    for (guint i = 0; i < batch->count; i++) {
        clear_disk(batch, i);
        g_tree_unref(batch->disks[i]);
    }
    g_free(batch->disks);
    g_free(batch);
}

/* The cost of a content goes to the batch that will drop its last piece. */
static void take_over(WriteBatch *batch, WriteBatch *newer, guint disk, Piece *piece)
{
    Content *content = piece->content;
    gboolean last = content && content->references == 1;

    if (last) {
        newer->cost -= content->length;
        batch->cost += content->length;
        put(batch, disk, piece);
        content->references--;
    } else if (content) {
        write_batch_add(batch, disk, piece->offset, piece->length, content->bytes + piece->from);
        let_go(newer, content);
    } else {
        put(batch, disk, piece);
    }
    piece->content = NULL;
    drop(newer, disk, piece);
}

void write_batch_add_all(WriteBatch *batch, WriteBatch *newer)
{
    g_return_if_fail(batch->count == newer->count);
    for (guint i = 0; i < newer->count; i++) {
        GTreeNode *first;

        while ((first = g_tree_node_first(newer->disks[i])))
            take_over(batch, newer, i, g_tree_node_value(first));
    }
}

gboolean write_batch_is_empty(const WriteBatch *batch)
{
    for (guint i = 0; i < batch->count; i++)
        if (g_tree_nnodes(batch->disks[i]) > 0)
            return FALSE;
    return TRUE;
}

uint64_t write_batch_get_cost(const WriteBatch *batch)
{
    return batch->cost;
}

/* ---- records ---- */

WriteBatchWalk write_batch_walk(const WriteBatch *batch)
{
    return (WriteBatchWalk){.batch = batch};
}

WriteBatchWalk write_batch_walk_without(const WriteBatch *batch, const GArray *blocks)
{
    return (WriteBatchWalk){.batch = batch, .skipped = blocks};
}

typedef void (*TakePiece)(guint disk, const Piece *piece, gpointer user);

typedef struct {
    TakePiece take;
    guint disk;
    gpointer user;
} Each;

static gboolean call_take(gpointer key, gpointer value, gpointer data)
{
    const Each *each = data;

    each->take(each->disk, value, each->user);
    return FALSE;
}

static void list_piece(guint disk, const Piece *piece, gpointer user)
{
    uint64_t at = (piece->offset + WRITE_BLOCK_BYTES - 1) / WRITE_BLOCK_BYTES * WRITE_BLOCK_BYTES;

    for (; piece->content && at + WRITE_BLOCK_BYTES <= end_of(piece); at += WRITE_BLOCK_BYTES) {
        WriteBlock block = {disk, at, piece->content->bytes + piece->from + (at - piece->offset)};

        g_array_append_val((GArray *)user, block);
    }
}

static void count_piece(guint disk, const Piece *piece, gpointer user)
{
    if (piece->content)
        *(uint64_t *)user += piece->length;
}

static void for_each(const WriteBatch *batch, TakePiece take, gpointer user)
{
    for (guint i = 0; i < batch->count; i++)
        g_tree_foreach(batch->disks[i], call_take, &(Each){take, i, user});
}

void write_batch_list_blocks(const WriteBatch *batch, GArray *ret)
{
    for_each(batch, list_piece, ret);
}

uint64_t write_batch_count_data(const WriteBatch *batch)
{
    uint64_t bytes = 0;

    for_each(batch, count_piece, &bytes);
    return bytes;
}

/* The next block that is left out, at or behind where the walk is; NULL: none. */
static const WriteBlock *find_skipped(WriteBatchWalk *walk)
{
    while (walk->skipped && walk->next < walk->skipped->len) {
        const WriteBlock *block = &g_array_index(walk->skipped, WriteBlock, walk->next);

        if (block->disk > walk->disk ||
            (block->disk == walk->disk && block->offset + WRITE_BLOCK_BYTES > walk->offset))
            return block->disk == walk->disk ? block : NULL;
        walk->next++;
    }
    return NULL;
}

static const Piece *find_next_piece(WriteBatchWalk *walk)
{
    for (; walk->disk < walk->batch->count; walk->disk++, walk->offset = 0) {
        const Piece *piece = find_from(walk->batch, walk->disk, walk->offset);

        if (piece)
            return piece;
    }
    return NULL;
}

static void encode_part(WriteBatchWalk *walk, const Piece *part, GByteArray *out)
{
    byte_write_le32(out, part->content ? RECORD_DATA : RECORD_ZEROS);
    byte_write_le32(out, walk->disk);
    byte_write_le64(out, part->offset);
    byte_write_le32(out, (uint32_t)part->length);
    if (part->content)
        byte_write_span(out, part->content->bytes + part->from, part->length);
    walk->offset = end_of(part);
}

/* The next one that is not left out, from *walk->offset* on up to *ret_end*. */
static const Piece *find_next(WriteBatchWalk *walk, uint64_t *ret_end)
{
    const Piece *piece;

    while ((piece = find_next_piece(walk))) {
        const WriteBlock *block;

        walk->offset = MAX(walk->offset, piece->offset);
        block = find_skipped(walk);
        *ret_end = end_of(piece);
        if (!block || block->offset >= *ret_end)
            return piece;
        if (block->offset > walk->offset) {
            *ret_end = block->offset;
            return piece;
        }
        walk->offset = block->offset + WRITE_BLOCK_BYTES;
    }
    return NULL;
}

/* What of *left* bytes goes into one record, in whole sectors or to the end; 0: no room. */
static uint64_t fit(uint64_t left, gboolean zeros, size_t room)
{
    uint64_t most = zeros ? ZEROS_MAX_BYTES : WRITE_RECORD_MAX_BYTES;

    if (room < WRITE_RECORD_HEAD_BYTES)
        return 0;
    if (!zeros)
        most = MIN(most, room - WRITE_RECORD_HEAD_BYTES);
    return left <= most ? left : most - most % WRITE_SECTOR_BYTES;
}

/* FALSE where there is no room for any of it. */
static gboolean encode_next(WriteBatchWalk *walk, const Piece *piece, uint64_t end, size_t room,
                            GByteArray *out)
{
    uint64_t from = MAX(piece->offset, walk->offset);
    uint64_t length = fit(end - from, piece->content == NULL, room);
    Piece part = part_of(piece, from, from + length);

    if (length > 0)
        encode_part(walk, &part, out);
    return length > 0;
}

gboolean write_batch_encode(WriteBatchWalk *walk, size_t max, GByteArray *out)
{
    guint before = out->len;
    const Piece *piece;
    uint64_t end;

    while ((piece = find_next(walk, &end)) &&
           encode_next(walk, piece, end, max - (out->len - before), out))
        ;
    return out->len > before;
}

static const char *find_problem(const WriteRecord *record, uint32_t kind, const uint64_t *bytes,
                                guint count)
{
    if (kind != RECORD_DATA && kind != RECORD_ZEROS)
        return "is of no known kind";
    if (record->disk >= count)
        return "is of no disk";
    if (record->length == 0 || record->offset > bytes[record->disk] ||
        record->length > bytes[record->disk] - record->offset)
        return "is empty or beyond its disk";
    if (kind == RECORD_DATA && record->length > WRITE_RECORD_MAX_BYTES)
        return "is too long";
    return NULL;
}

int write_record_read(ByteReader *reader, const uint64_t *bytes, guint count, WriteRecord *ret,
                      GError **error)
{
    const char *problem = NULL;
    uint32_t kind;

    if (reader->left == 0)
        return 0;
    kind = byte_read_le32(reader);
    *ret = (WriteRecord){.disk = byte_read_le32(reader)};
    ret->offset = byte_read_le64(reader);
    ret->length = byte_read_le32(reader);
    if (byte_reader_ok(reader))
        problem = find_problem(ret, kind, bytes, count);
    if (!problem && kind == RECORD_DATA)
        ret->data = byte_read_span(reader, ret->length);
    if (!problem && !byte_reader_ok(reader))
        problem = "is cut off";
    if (!problem)
        return 1;
    error_set(error, VMFERRY_ERROR_INVALID, "a record of what a disk was written %s", problem);
    return -1;
}
