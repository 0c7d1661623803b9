#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

namespace moraine::testing_support {

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void read_into(std::string& text, int fd) {
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, n);
}

}  // namespace

int Outcome::error_lines() const {
  int count = 0;
  for (size_t at = 0; (at = err.find("moraine: error:", at)) != std::string::npos; ++at) ++count;
  return count;
}

double Outcome::seconds_since_hurt() const {
  const size_t at = out.find("hurt ");
  return at == std::string::npos ? -1 : ended - std::atof(out.c_str() + at + 5);
}

Program::Program(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  std::vector<std::string> texts;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    if (!environment.contains(text.substr(0, text.find('=')))) texts.push_back(text);
  }
  for (const auto& [name, value] : environment) texts.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (const std::string& text : texts) envp.push_back(const_cast<char*>(text.c_str()));
  envp.push_back(nullptr);
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    dup2(out[1], 1);
    dup2(err[1], 2);
    execve(args[0], args.data(), envp.data());
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  out_fd_ = out[0];
  err_fd_ = err[0];
  fcntl(out_fd_, F_SETFL, O_NONBLOCK);
  fcntl(err_fd_, F_SETFL, O_NONBLOCK);
}

Program::~Program() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(out_fd_);
  close(err_fd_);
}

void Program::drain() {
  read_into(out_, out_fd_);
  read_into(err_, err_fd_);
}

bool Program::wait_for_output(const std::string& text, double seconds) {
  for (const double end = now() + seconds; now() < end; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
    drain();
    if (out_.find(text) != std::string::npos) return true;
  }
  return false;
}

void Program::signal(int number) const {
  if (pid_ > 0) kill(pid_, number);
}

bool Program::has_ended() {
  drain();
  if (pid_ < 0) return true;
  if (waitpid(pid_, &status_, WNOHANG) == 0) return false;
  ended_ = now();
  pid_ = -1;
  drain();
  return true;
}

Outcome Program::finish(double seconds) { return finish_all({this}, seconds)[0]; }

std::vector<Outcome> Program::finish_all(const std::vector<Program*>& programs, double seconds) {
  const double end = now() + seconds;
  for (bool any = true; any; std::this_thread::sleep_for(std::chrono::milliseconds(5))) {
    any = false;
    for (Program* program : programs) {
      if (program->has_ended()) continue;
      any = true;
      if (now() > end) program->signal(SIGKILL);
    }
  }
  std::vector<Outcome> outcomes;
  for (const Program* p : programs) {
    outcomes.push_back({.exit_code = WIFEXITED(p->status_) ? WEXITSTATUS(p->status_) : 128 + WTERMSIG(p->status_),
                        .out = p->out_,
                        .err = p->err_,
                        .ended = p->ended_});
  }
  return outcomes;
}

bool alive(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  const size_t state = text.rfind(')');
  return state != std::string::npos && text[state + 2] != 'Z';
}

}  // namespace moraine::testing_support
