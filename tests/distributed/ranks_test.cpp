// Several ranks as real processes (worker/worker.cpp): what collectives deliver, and how a world ends when a rank is
// hurt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "distributed/control/control_store.h"
#include "program.h"

namespace moraine {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;
using testing_support::alive;
using testing_support::Outcome;
using testing_support::Program;
using Environment = std::map<std::string, std::string>;

std::vector<std::string> worker(const std::string& scenario, int ranks) {
  return {MORAINE_DIST_WORKER, scenario, "--ranks", std::to_string(ranks)};
}

Outcome run_local(const std::string& scenario, int ranks, const Environment& environment = {}) {
  return Program(worker(scenario, ranks), environment).finish();
}

// Ranks started as Slurm or torchrun without an agent's store would: by nobody that looks after them. Rank 0 serves.
struct Alone {
  Alone(const std::string& scenario, int ranks, Environment environment = {},
        const std::vector<Environment>& each = {}) {
    for (int rank = 0; rank < ranks; ++rank) {
      Environment own = environment;
      own["RANK"] = std::to_string(rank);
      own["WORLD_SIZE"] = std::to_string(ranks);
      own["MASTER_ADDR"] = "127.0.0.1";
      own["MASTER_PORT"] = std::to_string(port);
      own["OMP_NUM_THREADS"] = "1";
      if (!each.empty()) {
        for (const auto& [name, value] : each[rank]) own[name] = value;
      }
      programs.push_back(std::make_unique<Program>(std::vector<std::string>{MORAINE_DIST_WORKER, scenario}, own));
    }
  }
  std::vector<Outcome> finish() { return finish_all({this})[0]; }
  // Several worlds at a time.
  static std::vector<std::vector<Outcome>> finish_all(const std::vector<Alone*>& worlds) {
    std::vector<Program*> all;
    for (Alone* world : worlds) {
      for (auto& program : world->programs) all.push_back(program.get());
    }
    const std::vector<Outcome> outcomes = Program::finish_all(all);
    std::vector<std::vector<Outcome>> result;
    auto next = outcomes.begin();
    for (Alone* world : worlds) {
      result.emplace_back(next, next + world->programs.size());
      next += world->programs.size();
    }
    return result;
  }
  void signal(int number) {
    for (auto& program : programs) program->signal(number);
  }
  const uint16_t port = ListeningSocket().port();  // free a moment ago
  std::vector<std::unique_ptr<Program>> programs;
};

// What all ranks wrote to stderr, and when the last one ended.
Outcome together(const std::vector<Outcome>& outcomes, int except = -1) {
  Outcome all;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    all.out += outcomes[i].out;
    if (static_cast<int>(i) == except) continue;
    all.err += outcomes[i].err;
    all.ended = std::max(all.ended, outcomes[i].ended);
    all.exit_code = std::max(all.exit_code, outcomes[i].exit_code);
  }
  return all;
}

void expect_one_line(const Outcome& outcome, const std::string& start) {
  EXPECT_EQ(outcome.error_lines(), 1) << outcome.err;
  EXPECT_THAT(outcome.err, StartsWith("moraine: error: " + start));
  EXPECT_THAT(outcome.err, Not(HasSubstr("frame #")));
  EXPECT_LE(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 6) << outcome.err;
  std::printf("  %.2f s: %s", outcome.seconds_since_hurt(), outcome.err.c_str());
}

void expect_within(const Outcome& outcome, double seconds) {
  EXPECT_GE(outcome.seconds_since_hurt(), 0);
  EXPECT_LT(outcome.seconds_since_hurt(), seconds);
}

// ------------------------------------------------------------------------------------------------ what arrives

TEST(Ranks, CollectivesDeliver) {
  for (int ranks : {1, 2, 3}) {
    const Outcome outcome = run_local("collectives", ranks);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, "collectives: " + std::to_string(ranks) + " ranks good\n");
    EXPECT_EQ(outcome.err, "");
  }
}

TEST(Ranks, EveryMeshGroupConnects) {
  EXPECT_EQ(run_local("mesh", 4).out, "4 ranks = ep 2 × ep_fsdp 2 × replicate 1, fsdp 4\n");
  EXPECT_EQ(run_local("mesh", 3, {{"EP", "3"}}).out, "3 ranks = ep 3 × ep_fsdp 1 × replicate 1, fsdp 3\n");
}

TEST(Ranks, GathersThatNobodyWaitsForKeepTheirMemory) {
  const Outcome outcome = run_local("dropped_gathers", 2);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "all gathers are done\n");
}

TEST(Ranks, StoreAndAgreement) {
  EXPECT_EQ(run_local("store", 3).out, "ranks 0:0 1:1 2:2\n");
  EXPECT_EQ(run_local("agree", 3).out, "agreed\n");
  // Without a parent, and with one process.
  const Outcome alone = together(Alone("store", 3).finish());
  EXPECT_EQ(alone.out, "ranks 0:0 1:1 2:2\n");
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(Program({MORAINE_DIST_WORKER, "store"}, {}).finish().out, "ranks 0:0\n");
}

TEST(Ranks, OnlyRank0SpeaksAndWarningsComeOnce) {
  const Outcome outcome = run_local("warn", 3);
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "rank 0 speaks\n");
  EXPECT_EQ(outcome.err, "moraine: warning: loss is high\n");
  // Ranks end at different times, also when rank 0 serves the store.
  const Outcome alone = together(Alone("warn", 3).finish());
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(alone.out, "rank 0 speaks\n");
}

// ------------------------------------------------------------------------------------------------ the start

TEST(RankStart, WhatIsWaitedForIsSaidAndNoWaitIsEndless) {
  const auto rank = [&](const Environment& environment) {
    Environment own{
        {"START_MS", "5000"}, {"QUIET_MS", "2000"}, {"MASTER_PORT", std::to_string(ListeningSocket().port())}};
    for (const auto& [name, value] : environment) own[name] = value;
    return std::make_unique<Program>(std::vector<std::string>{MORAINE_DIST_WORKER, "store"}, own);
  };
  const ListeningSocket silent;  // takes connections and never answers
  std::vector<std::unique_ptr<Program>> programs;
  programs.push_back(rank({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "no-such-host.invalid"}}));
  programs.push_back(rank({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "no-such-host.invalid"}}));
  programs.push_back(rank({{"RANK", "1"},
                           {"WORLD_SIZE", "2"},
                           {"MASTER_ADDR", "127.0.0.1"},
                           {"MASTER_PORT", std::to_string(silent.port())}}));
  programs.push_back(rank({{"SLURM_PROCID", "0"},
                           {"SLURM_STEP_NUM_TASKS", "3"},
                           {"SLURM_STEP_ID", "0"},
                           {"SLURM_STEP_NODELIST", "127.0.0.1"}}));
  std::vector<Program*> all;
  for (auto& program : programs) all.push_back(program.get());
  const std::vector<Outcome> outcomes = Program::finish_all(all);
  const char* warnings[] = {
      "the control store of rank 0 at no-such-host.invalid:", "an address of MASTER_ADDR no-such-host.invalid: ",
      "an answer of what listens at 127.0.0.1:", "rank 1, 2: 1 of 3 ranks have come (in a shell of srun --pty"};
  const char* errors[] = {"no-such-host.invalid has no address: ", "MASTER_ADDR: no-such-host.invalid has no address: ",
                          "127.0.0.1:", "no sign of rank 1, 2 within 5 s"};
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i].exit_code, 1) << outcomes[i].err;
    EXPECT_EQ(outcomes[i].error_lines(), 1) << outcomes[i].err;
    EXPECT_THAT(outcomes[i].err, HasSubstr("has waited 2 s for " + std::string(warnings[i])));
    EXPECT_THAT(outcomes[i].err.substr(outcomes[i].err.find("moraine: error:")), HasSubstr(errors[i]));
  }
}

TEST(RankStart, ASecondJobOnThePortIsRefusedAndTheFirstGoesOn) {
  Alone world("mesh_steps", 2);
  ASSERT_TRUE(world.programs[0]->wait_for_output("step 10.", 30));
  const auto another = [&](const Environment& differs) {
    Environment own{{"RANK", "1"},
                    {"WORLD_SIZE", "2"},
                    {"MASTER_ADDR", "127.0.0.1"},
                    {"MASTER_PORT", std::to_string(world.port)},
                    {"OMP_NUM_THREADS", "1"}};
    for (const auto& [name, value] : differs) own[name] = value;
    return std::make_unique<Program>(std::vector<std::string>{MORAINE_DIST_WORKER, "store"}, own);
  };
  std::vector<std::unique_ptr<Program>> programs;
  programs.push_back(another({{"RANK", "0"}}));
  programs.push_back(another({}));
  programs.push_back(another({{"RANK", "3"}, {"WORLD_SIZE", "4"}}));
  programs.push_back(another({{"TORCHELASTIC_RUN_ID", "other"}}));
  const char* errors[] = {"Address already in use", "another job's: its rank 1 is ",
                          "another job's: it has 2 ranks and all have come",
                          "another job's: it serves run '.0', this is 'other.0'"};
  for (size_t i = 0; i < programs.size(); ++i) {
    const Outcome outcome = programs[i]->finish();
    EXPECT_EQ(outcome.exit_code, i == 0 ? 1 : 2);
    EXPECT_EQ(outcome.error_lines(), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(errors[i]));
  }
  // Steps are made still.
  const std::string before = world.programs[0]->out();
  const size_t last = before.rfind("step ");
  EXPECT_TRUE(world.programs[0]->wait_for_output(
      "step " + std::to_string(std::atoi(before.c_str() + last + 5) + 20) + ".", 10));
  world.signal(SIGTERM);
  for (const Outcome& outcome : world.finish()) {
    EXPECT_EQ(outcome.exit_code, 128 + SIGTERM) << outcome.err;
    EXPECT_EQ(outcome.error_lines(), 0) << outcome.err;
  }
}

TEST(RankStart, TooFewDescriptorsAreSaidAtOnce) {
  const auto limited = [](const std::string& limit, int ranks) {
    const std::string script = limit + " && exec " + MORAINE_DIST_WORKER + " store --ranks " + std::to_string(ranks);
    return Program({"/bin/sh", "-c", script}, {}).finish();
  };
  const Outcome refused = limited("ulimit -n 48", 4);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, StartsWith("moraine: error: file descriptors: --ranks 4 needs "));
  EXPECT_THAT(refused.err, HasSubstr("the limit is 48"));
  const Outcome raised = limited("ulimit -S -n 24", 2);  // the hard limit stays
  EXPECT_EQ(raised.exit_code, 0) << raised.err;

  // Without a parent the ranks count by themselves, when they know of their groups.
  const std::string port = std::to_string(ListeningSocket().port());
  std::vector<std::unique_ptr<Program>> ranks;
  for (const char* rank : {"0", "1"}) {
    const std::string script =
        std::string(*rank == '0' ? "ulimit -n 44 && " : "") + "exec " + MORAINE_DIST_WORKER + " mesh_steps";
    const Environment environment{
        {"RANK", rank}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}};
    ranks.push_back(std::make_unique<Program>(std::vector<std::string>{"/bin/sh", "-c", script}, environment));
  }
  const std::vector<Outcome> outcomes = Program::finish_all({ranks[0].get(), ranks[1].get()});
  EXPECT_EQ(outcomes[0].exit_code, 1);
  EXPECT_EQ(outcomes[1].exit_code, 1);
  EXPECT_THAT(outcomes[0].err, HasSubstr("file descriptors: rank 0 of 2 needs "));
  EXPECT_EQ(outcomes[0].error_lines() + outcomes[1].error_lines(), 1) << outcomes[0].err << outcomes[1].err;
}

TEST(RankStart, WithoutLoopbackTheRunSaysSo) {
  if (Program({"/usr/bin/unshare", "-rn", "/bin/true"}, {}).finish().exit_code != 0)
    GTEST_SKIP() << "needs network namespaces";
  const std::vector<std::string> unshare{"/usr/bin/unshare", "-rn", MORAINE_DIST_WORKER, "store"};
  std::vector<std::string> local = unshare;
  local.insert(local.end(), {"--ranks", "2"});
  const Outcome of_parent = Program(local, {}).finish();
  const Outcome of_rank0 =
      Program(unshare, {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}})
          .finish();
  for (const Outcome& outcome : {of_parent, of_rank0}) {
    EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
    EXPECT_EQ(outcome.error_lines(), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("127.0.0.1: Network is unreachable (is the loopback interface up?"));
  }
}

TEST(RankFaults, ARankWithoutAnEndIsNamed) {
  const Outcome outcome = together(Alone("never_ends", 3, {{"TIMEOUT_MS", "700"}}).finish());
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.err,
            "moraine: error: rank 2: has not ended 0.7 s after rank 0, stage: the last rows (dist.timeout_seconds sets "
            "the limit)\n");
}

// ------------------------------------------------------------------------------------------------ strangers

// Ports that these processes listen on, with the addresses as /proc/net has them.
std::vector<std::pair<uint16_t, std::string>> listening(const std::vector<pid_t>& pids) {
  std::set<std::string> inodes;
  for (pid_t pid : pids) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry, gone).string();
      if (target.rfind("socket:[", 0) == 0) inodes.insert(target.substr(8, target.size() - 9));
    }
  }
  std::vector<std::pair<uint16_t, std::string>> found;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    std::string line, slot, local, remote, state, skipped, inode;
    for (std::getline(file, line); std::getline(file, line);) {
      std::istringstream fields(line);
      fields >> slot >> local >> remote >> state >> skipped >> skipped >> skipped >> skipped >> skipped >> inode;
      const size_t colon = local.find(':');
      if (state == "0A" && inodes.contains(inode))
        found.emplace_back(std::stoi(local.substr(colon + 1), nullptr, 16), local.substr(0, colon));
    }
  }
  return found;
}

size_t descriptors(pid_t pid) {
  const std::filesystem::directory_iterator fds("/proc/" + std::to_string(pid) + "/fd");
  return std::distance(begin(fds), end(fds));
}

// Connects, says `bytes`, and resets the connection without reading.
void visit(uint16_t port, const std::string& bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  (void)!send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
}

TEST(RankFaults, StrangersAtAPortEndNothingAndLeaveNothing) {
  const auto text = [](const std::string& s) {
    const uint64_t size = s.size();
    return std::string(reinterpret_cast<const char*>(&size), sizeof size) + s;
  };
  // How a client of a TCPStore begins, and its queries.
  const std::string hello("\0\xce\xf7\x85\x3c", 5), key = text("/moraine/.0/heartbeat/1");
  std::string gets = hello;
  for (int i = 0; i < 2000; ++i) gets += "\3" + key;
  const std::string garbage_beat = hello + "\1" + key + text("{}");

  Program local(worker("mesh_steps", 2), {});
  Alone alone("mesh_steps", 2);
  for (Program* program : {&local, alone.programs[0].get()}) {
    ASSERT_TRUE(program->wait_for_output("step 10.", 30));
    std::vector<pid_t> ranks;
    for (size_t at = 0; (at = program->out().find("pid ", at)) != std::string::npos; ++at)
      ranks.push_back(std::atoi(program->out().c_str() + at + 4));
    ASSERT_EQ(ranks.size(), 2u);
    // Whoever serves the store listens on loopback only, and the ranks, who are connected, on nothing.
    if (program == &local) {
      EXPECT_TRUE(listening(ranks).empty());
    }
    const auto ports = listening({program->pid()});
    ASSERT_EQ(ports.size(), 1u);
    EXPECT_EQ(ports[0].second, "0100007F");
    const size_t before = descriptors(program->pid());
    for (int i = 0; i < 20; ++i) {
      visit(ports[0].first, gets);
      visit(ports[0].first, garbage_beat);
      visit(ports[0].first, std::string(64, static_cast<char>(i * 37)));
    }
    const size_t at = program->out().rfind("step ");
    EXPECT_TRUE(
        program->wait_for_output("step " + std::to_string(std::atoi(program->out().c_str() + at + 5) + 20) + ".", 10));
    EXPECT_LE(descriptors(program->pid()), before + 2);
  }
  // A rank of another job, at the port of a parent.
  const std::string port = std::to_string(listening({local.pid()})[0].first);
  Program other({MORAINE_DIST_WORKER, "store"},
                {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}});
  const Outcome refused = other.finish();
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err,
              HasSubstr("is another job's: it serves run '--ranks of process " + std::to_string(local.pid()) + "'"));
  local.signal(SIGTERM);
  alone.signal(SIGTERM);
  std::vector<Outcome> outcomes = alone.finish();
  outcomes.push_back(local.finish());
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 128 + SIGTERM) << outcome.err;
    EXPECT_EQ(outcome.error_lines(), 0) << outcome.err;
  }
}

// ------------------------------------------------------------------------------------------------ errors

TEST(RankFaults, AnErrorOfOneRankIsOneLineForTheWorld) {
  const Outcome run = run_local("throw", 3, {{"VICTIM", "1"}});
  EXPECT_EQ(run.exit_code, 1);
  expect_one_line(run, "rank 1, step 20: model.safetensors: short read\n");
  const Outcome input = run_local("refuse", 3, {{"VICTIM", "2"}});
  EXPECT_EQ(input.exit_code, 2);
  expect_one_line(input, "data.train: no rows (add some)\n");
  const Outcome bug = run_local("bug", 2);
  EXPECT_EQ(bug.exit_code, 1);
  expect_one_line(bug, "rank 1, step 20: internal: shape '[3]' is invalid for input of size 2");
  const Outcome all = run_local("all_refuse", 3);
  EXPECT_EQ(all.exit_code, 2);
  expect_one_line(all, "recipe.yaml: unknown key 'trian' (did you mean 'train'?)\n");
}

TEST(RankFaults, AnErrorOfOneRankIsOneLineWithoutAParentToo) {
  for (const char* victim : {"0", "1"}) {
    const std::vector<Outcome> outcomes = Alone("throw", 3, {{"VICTIM", victim}}).finish();
    const Outcome all = together(outcomes);
    expect_one_line(all, std::string("rank ") + victim + ", step 20: model.safetensors: short read\n");
    for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.exit_code, 1);
  }
  const std::vector<Outcome> outcomes = Alone("all_refuse", 3).finish();
  expect_one_line(together(outcomes), "recipe.yaml: unknown key");
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.exit_code, 2);
}

TEST(RankFaults, AnErrorWithACollectiveInFlightDoesNotHang) {
  const Outcome outcome = run_local("throw_in_flight", 2);
  EXPECT_EQ(outcome.exit_code, 1);
  expect_one_line(outcome, "rank 0, start: row 3: no tokens\n");
  expect_within(outcome, 5);
}

TEST(RankFaults, DisagreementNamesRankKeyAndBothValues) {
  const Outcome outcome = run_local("disagree", 3, {{"VICTIM", "1"}});
  EXPECT_EQ(outcome.exit_code, 2);
  expect_one_line(outcome, "rank 1: train.seed differs between ranks: '7' here, '0' on rank 0");
  expect_within(outcome, 5);
  const Outcome alone = together(Alone("disagree", 3, {{"VICTIM", "2"}}).finish());
  EXPECT_EQ(alone.exit_code, 2);
  expect_one_line(alone, "rank 2: train.seed differs between ranks: '7' here, '0' on rank 0");
  expect_within(alone, 5);
}

TEST(RankFaults, RanksThatDisagreeOnTheWorldAreRefused) {
  const Outcome size = together(Alone("store", 2, {}, {{}, {{"WORLD_SIZE", "3"}}}).finish());
  EXPECT_EQ(size.exit_code, 2);
  EXPECT_EQ(size.error_lines(), 1) << size.err;
  EXPECT_THAT(size.err, HasSubstr("WORLD_SIZE: is "));
}

// ------------------------------------------------------------------------------------------------ dead ranks

TEST(RankFaults, AKilledRankEndsTheWorldAndIsNamed) {
  for (const char* victim : {"0", "1", "2"}) {
    const Outcome outcome = run_local("kill", 3, {{"VICTIM", victim}});
    EXPECT_EQ(outcome.exit_code, 1);
    expect_one_line(outcome, std::string("rank ") + victim + ": killed by signal 9 (SIGKILL");
    expect_within(outcome, 10);
  }
  const Outcome waiting = run_local("kill_in_wait", 2);
  EXPECT_EQ(waiting.exit_code, 1);
  expect_one_line(waiting, "rank 1: killed by signal 9 (SIGKILL");
  const Outcome early = run_local("store", 3, {{"DIE_BEFORE_JOINING", "1"}});
  EXPECT_EQ(early.exit_code, 1);
  expect_one_line(early, "rank 1: killed by signal 9 (SIGKILL");
  expect_within(early, 10);
}

TEST(RankFaults, ARankThatEndsWithoutAWordIsNamed) {
  const Outcome crash = run_local("abort", 2);
  EXPECT_EQ(crash.exit_code, 1);
  expect_one_line(crash, "rank 1: killed by signal 6 (SIGABRT");
  const Outcome left = run_local("exit", 2);
  EXPECT_EQ(left.exit_code, 1);
  expect_one_line(left, "rank 1: ended with code 7");
}

TEST(RankFaults, AKilledRankIsNoticedWithoutAParent) {
  // The rank that serves the store, and one that does not; and when nobody is in a collective. All at the same time, as
  // they mostly wait.
  struct Case {
    const char* scenario;
    int victim;
    const char* line;
  };
  const std::vector<Case> cases{{"kill", 0, "rank 0: its control store"},
                                {"kill", 2, "rank 2: its process is gone, last stage: step 20"},
                                {"kill_in_wait", 0, "rank 0: its control store"},
                                {"kill_in_wait", 2, "rank 2: its process is gone, last stage: load"}};
  std::vector<std::unique_ptr<Alone>> worlds;
  std::vector<Alone*> pointers;
  for (const Case& c : cases) {
    worlds.push_back(std::make_unique<Alone>(c.scenario, 3, Environment{{"VICTIM", std::to_string(c.victim)}}));
    pointers.push_back(worlds.back().get());
  }
  const auto outcomes = Alone::finish_all(pointers);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Outcome others = together(outcomes[i], cases[i].victim);
    expect_one_line(others, cases[i].line);
    expect_within(others, 10);
    for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(outcomes[i][rank].exit_code, rank == cases[i].victim ? 137 : 1);
  }
}

// Processes of another host, or of another container, cannot be looked at.
TEST(RankFaults, AKilledRankThatCannotBeSeenIsNoticedByItsHeartbeat) {
  const Environment blind{{"BLIND", "1"}};
  Environment in_collective = blind, in_wait = blind;
  in_wait["MORAINE_HEARTBEAT_SECONDS"] = "3";
  Alone kill("kill", 3, in_collective), idle("kill_in_wait", 2, in_wait);
  const auto outcomes = Alone::finish_all({&kill, &idle});
  const Outcome others = together(outcomes[0], 2);
  expect_one_line(others, "rank 2: lost in all_gather_into_tensor on world (#22, 3.91 KiB)");
  expect_within(others, 10);
  const Outcome waiting = together(outcomes[1], 1);
  expect_one_line(waiting, "rank 1: no heartbeat for 3 s, last stage: load");
  expect_within(waiting, 10);
}

TEST(RankFaults, AStoppedRankIsNoticed) {
  Alone alone("stop", 3, {{"VICTIM", "0"}, {"MORAINE_HEARTBEAT_SECONDS", "3"}});  // rank 0 serves the store
  const Outcome outcome = run_local("stop", 3, {{"VICTIM", "1"}, {"MORAINE_HEARTBEAT_SECONDS", "3"}});
  EXPECT_EQ(outcome.exit_code, 1);
  expect_one_line(outcome, "rank 1: no heartbeat for 3 s, last stage: step ");
  expect_within(outcome, 10);
  const std::vector<Outcome> others{alone.programs[1]->finish(), alone.programs[2]->finish()};
  Outcome both = together(others);
  alone.programs[0]->wait_for_output("hurt", 1);
  both.out += alone.programs[0]->out();
  expect_one_line(both, "rank 0: its control store");
  expect_within(both, 10);
}

TEST(RankFaults, ARankStoppedForAWhileGoesOn) {
  Program program(worker("pids", 2), {{"STEPS", "60"}, {"MORAINE_HEARTBEAT_SECONDS", "5"}});
  ASSERT_TRUE(program.wait_for_output("pid", 10));
  ASSERT_TRUE(program.wait_for_output("\npid", 10));
  const pid_t pid = std::atoi(program.out().c_str() + program.out().rfind("pid") + 4);
  kill(pid, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  kill(pid, SIGCONT);
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST(RankFaults, ATimeoutNamesTheCollectiveAndWhoHasNotCome) {
  const Outcome outcome = run_local("hang", 3, {{"TIMEOUT_MS", "1500"}});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.error_lines(), 1);
  EXPECT_THAT(outcome.err,
              MatchesRegex("moraine: error: rank [01]: all_gather_into_tensor on world .#2[12], 3.91 KiB. has not "
                           "ended within 1.5 s, stage step 20; rank 2 has not come to it .stage step 20, last "
                           "collective: all_gather_into_tensor on world .#2[01], 3.91 KiB.. "
                           ".dist.timeout_seconds sets the limit.\n(.|\n)*"));
  EXPECT_LE(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 6) << outcome.err;
  std::printf("  %.2f s: %s", outcome.seconds_since_hurt(), outcome.err.c_str());
}

// ------------------------------------------------------------------------------------------------ signals to ranks

// As torchrun, Slurm and mpirun do: they see the process end and end the others at once.
TEST(RankFaults, RanksThatALauncherEndsTellWhyFirst) {
  Alone alone("kill_in_wait", 3, {{"VICTIM", "1"}});
  alone.programs[1]->finish();
  alone.signal(SIGTERM);
  const std::vector<Outcome> outcomes = alone.finish();
  const Outcome others = together(outcomes, 1);
  expect_one_line(others, "rank 1: its process is gone, last stage: load");
  expect_within(others, 10);
  EXPECT_EQ(outcomes[1].exit_code, 137);
  // The one that finds out first may end by its own report before the signal comes.
  for (int rank : {0, 2}) EXPECT_THAT(outcomes[rank].exit_code, testing::AnyOf(1, 128 + SIGTERM));
}

TEST(RankFaults, ASignalToAllRanksEndsThemQuietly) {
  for (int number : {SIGTERM, SIGINT}) {
    Alone alone("pids", 3);
    ASSERT_TRUE(alone.programs[0]->wait_for_output("\npid", 30));
    const auto start = std::chrono::steady_clock::now();
    alone.signal(number);
    for (const Outcome& outcome : alone.finish()) {
      EXPECT_EQ(outcome.exit_code, 128 + number);
      EXPECT_EQ(outcome.err, "");
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("  %.2f s\n", seconds);
    EXPECT_LT(seconds, 5);
  }
}

// Whatever the thread that talks to the store waits for.
TEST(RankFaults, ASignalEndsARankWhoseStoreIsSilent) {
  Alone alone("pids", 2);
  ASSERT_TRUE(alone.programs[0]->wait_for_output("\npid", 30));
  alone.programs[0]->signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const auto start = std::chrono::steady_clock::now();
  alone.programs[1]->signal(SIGTERM);
  EXPECT_EQ(alone.programs[1]->finish().exit_code, 128 + SIGTERM);
  // 8 s without an answer would end it too.
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 5);
}

TEST(RankFaults, ARankThatASignalEndedIsNamed) {
  Alone alone("pids", 3);
  ASSERT_TRUE(alone.programs[0]->wait_for_output("\npid", 30));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  alone.programs[2]->signal(SIGTERM);
  const std::vector<Outcome> outcomes = alone.finish();
  expect_one_line(together(outcomes), "rank 2: ended by SIGTERM, stage: step ");
  EXPECT_EQ(outcomes[2].exit_code, 128 + SIGTERM);
  for (int rank : {0, 1}) EXPECT_EQ(outcomes[rank].exit_code, 1);
}

// ------------------------------------------------------------------------------------------------ the launcher

std::vector<pid_t> pids_of(const std::string& out) {
  std::vector<pid_t> pids;
  std::istringstream lines(out);
  for (std::string word, number; lines >> word >> number;) pids.push_back(std::atoi(number.c_str()));
  return pids;
}

TEST(Launcher, RanksAreItsOnlyChildrenAndDieWithIt) {
  Program program(worker("pids", 3), {});
  ASSERT_TRUE(program.wait_for_output("\npid", 10));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  program.wait_for_output("nothing", 0.1);
  const std::vector<pid_t> pids = pids_of(program.out());
  ASSERT_EQ(pids.size(), 3u);
  std::ifstream children("/proc/" + std::to_string(program.pid()) + "/task/" + std::to_string(program.pid()) +
                         "/children");
  std::vector<pid_t> direct;
  for (pid_t pid; children >> pid;) direct.push_back(pid);
  EXPECT_THAT(direct, testing::UnorderedElementsAreArray(pids));
  for (pid_t pid : pids) EXPECT_TRUE(alive(pid));
  program.signal(SIGKILL);
  program.finish();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  for (pid_t pid : pids) EXPECT_FALSE(alive(pid));
}

// nohup: what is ignored when the program starts does not end its ranks either.
TEST(Launcher, IgnoredSignalsAreNotPassedOn) {
  signal(SIGHUP, SIG_IGN);
  Program program(worker("pids", 2), {});
  signal(SIGHUP, SIG_DFL);
  ASSERT_TRUE(program.wait_for_output("\npid", 10));
  program.signal(SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (pid_t pid : pids_of(program.out())) EXPECT_TRUE(alive(pid));
  program.signal(SIGTERM);
  EXPECT_EQ(program.finish().exit_code, 128 + SIGTERM);
}

// A rank whose results nobody reads takes the others with it, without a word.
TEST(Launcher, ARankEndedByAClosedPipeEndsTheOthersQuietly) {
  const Outcome outcome = run_local("result_without_reader", 3);
  EXPECT_EQ(outcome.exit_code, 128 + SIGPIPE);
  EXPECT_EQ(outcome.err, "");
}

TEST(Launcher, SignalsReachTheRanks) {
  for (int number : {SIGTERM, SIGINT, SIGUSR1}) {
    Program program(worker("pids", 2), {});
    ASSERT_TRUE(program.wait_for_output("\npid", 10));
    program.signal(number);
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.exit_code, 128 + number);
    EXPECT_EQ(outcome.err, "");
    for (pid_t pid : pids_of(outcome.out)) EXPECT_FALSE(alive(pid));
  }
}

}  // namespace
}  // namespace moraine
