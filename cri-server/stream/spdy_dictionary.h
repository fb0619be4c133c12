/* The zlib dictionary of SPDY/3 header blocks. */
#pragma once

#define SPDY_DICTIONARY_BYTES 1423

extern const unsigned char spdy_dictionary[SPDY_DICTIONARY_BYTES];
