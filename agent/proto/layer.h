/*
 * What a layer's EROFS image says to who mounts it, beside overlayfs's own marks. In overlayfs's
 * name space, which it hides from containers.
 */
#pragma once

/*
 * Of directories. A layer may name a file without the directories that lead to it: they are in the
 * image, but what they are (mode, owner, time, attributes) only lower layers say. "1": such a
 * directory; "2": one of those is below; "3": both. The root too.
 */
#define LAYER_IMPLIED_XATTR "trusted.overlay.bulkhead"
#define LAYER_IMPLIED       1
#define LAYER_IMPLIED_BELOW 2
