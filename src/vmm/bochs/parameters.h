/* The debugger's commands that show and set a tree of parameters (tree.h), as functions. */
#pragma once

#include "vmm/bochs/console.h"
#include "vmm/bochs/tree.h"

/* What `show` tells of a device ("pit"), a list ("cpu0.MSR") or one parameter ("cpu0.RIP").
 * NOT_FOUND where Bochs has none of that path.  Free with bochs_node_free(). */
BochsNode *bochs_show(BochsConsole *console, const char *path, GError **error);

/* The same of several paths, up to NULL, at once: an array of as many nodes, NULL where Bochs has none.  Free with
 * g_ptr_array_unref().  *folder* as of bochs_restore(): Bochs takes the commands from a file there, which costs a tenth of what
 * its line editor does, and one turn of both processes instead of many. */
GPtrArray *bochs_show_all(BochsConsole *console, const char *folder, const char *const *paths,
                          GError **error);

/* The same from the answer of the command. */
BochsNode *bochs_show_parse(const char *answer, const char *path, GError **error);

/* Sets what is in *wanted*, a device's tree, and leaves the rest of the device as it is; by the file
 * FOLDER/NAME, which must not be written by others.  What is set was shown before
 * (bochs_tree_check_known()): Bochs ends where it does not know a name.  FOLDER is in Bochs's working folder, and its
 * name has no blanks or quotes. */
gboolean bochs_restore(BochsConsole *console, const char *folder, const BochsNode *wanted,
                       GError **error);

/* The same with the text of the file. */
gboolean bochs_restore_text(BochsConsole *console, const char *folder, const char *name,
                            const char *text, GError **error);
