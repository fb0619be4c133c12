/*
 * Directories that a layer only passes through (agent/proto/layer.h) get what the next lower layer
 * that has them says of them; without it, an overlay shows the defaults that the layer's image has
 * in their place. So does the root, which begins as the overlay's new upper directory.
 */
#pragma once

#include <stddef.h>

#include "common/err.h"

/*
 * The layers are directories "0", "1", … of the working directory, lowest first; `merged` is their
 * overlay, writable. Links in the layers lead nowhere.
 */
int implied_settle(size_t n_layers, int merged, struct err *err);
