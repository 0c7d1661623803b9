// What goes wrong in a template, with its place there.
#pragma once

#include <stdexcept>
#include <string>

namespace moraine::jinja {

// A place in a template's source: both count from 1, columns in characters. Line 0: not known yet.
struct Place {
  int line = 0, column = 0;
};

// What the template or a value in it does wrong. The nearest expression that knows its place adds it.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& what, Place place = {}) : std::runtime_error(what), place(place) {}
  Place place;
};

}  // namespace moraine::jinja
