// What templates may spend on one row of data.
#pragma once

#include "text/jinja/budget.h"

namespace moraine {

// While there is one, all renderings of this thread share its budget: those of a row's turns, and those with other
// forms of its messages. Without one each call of an encoder has a budget of its own.
using RowBudget = jinja::BudgetScope;

}  // namespace moraine
