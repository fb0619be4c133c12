/* bulkhead's version, as Version, `bulkheadd --version` and `bulkheadctl --version` say it. */
#pragma once

#define BULKHEAD_VERSION "0.1.0"
