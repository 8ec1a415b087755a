#include "common/mutant.h"

enum mutant mutant_active;

const struct mutant_text mutants[MUTANTS] = {
    {"none", "nothing"},
#define X(name, what) {#name, what},
    MUTANTS_LIST(X)
#undef X
};
