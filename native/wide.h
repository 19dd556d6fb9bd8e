// One build serves every x86-64 processor: a function marked PS_WIDE is compiled twice, and the faster
// version is chosen when the library is loaded.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define PS_WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define PS_WIDE
#endif
