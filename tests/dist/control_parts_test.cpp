// The parts of the control plane that need no second process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "dist/collective_log.h"
#include "dist/control_store.h"
#include "dist/heartbeat.h"
#include "dist/local_peers.h"
#include "program.h"

namespace moraine {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

Heartbeat beat_number(uint64_t count) {
  Heartbeat beat;
  beat.count = count;
  return beat;
}

TEST(HeartbeatWatch, SilenceCountsFromTheLastChange) {
  const HeartbeatWatch::Clock::time_point t0{};
  HeartbeatWatch watch(t0);
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(1)), seconds(0));
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(2)), seconds(1));
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(3)), seconds(2));
  EXPECT_EQ(watch.look(beat_number(2), t0 + seconds(4)), seconds(0));
  EXPECT_EQ(watch.look(std::nullopt, t0 + seconds(5)), seconds(1));
}

TEST(HeartbeatWatch, TimeInWhichTheWatcherWasStoppedDoesNotCount) {
  const HeartbeatWatch::Clock::time_point t0{};
  HeartbeatWatch watch(t0);
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(1)), seconds(0));
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(2)), seconds(1));
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(100)), seconds(1));
  EXPECT_EQ(watch.look(beat_number(1), t0 + seconds(101)), seconds(2));
}

TEST(Heartbeat, SurvivesItsTextForm) {
  const Heartbeat beat{.count = 7, .stage = "load \xff", .last_collective = "x", .sequences = {{"ep", 3}}, .done = true};
  const Heartbeat again = Heartbeat::from_json(beat.to_json());
  EXPECT_EQ(again.count, 7u);
  EXPECT_THAT(again.stage, HasSubstr("load "));
  EXPECT_EQ(again.sequences.at("ep"), 3u);
  EXPECT_TRUE(again.done);
}

TEST(CollectiveLog, NumbersEachGroupAndFindsTheOldestPending) {
  CollectiveLog log;
  const auto first = log.start("all_gather_into_tensor", "dense_gather", {0, 1}, 4 << 20);
  const auto second = log.start("all_to_all_single", "tokens", {0, 1}, 100);
  const auto later = std::chrono::steady_clock::now() + seconds(1);
  EXPECT_EQ(log.oldest_pending(later)->id, first);
  EXPECT_FALSE(log.oldest_pending(std::chrono::steady_clock::now() - seconds(1)));
  log.finish(first);
  EXPECT_EQ(log.oldest_pending(later)->id, second);
  EXPECT_EQ(log.oldest_pending(later)->describe(), "all_to_all_single on tokens (#1, 100 B)");
  // Ended, though nobody has waited for it yet.
  log.attach(second, [] { return true; });
  EXPECT_FALSE(log.oldest_pending(later));
  EXPECT_EQ(log.start("barrier", "tokens", {0, 1}, 0), 3u);
  EXPECT_EQ(log.sequences().at("tokens"), 2u);
  EXPECT_EQ(log.last(2)[0].op, "barrier");
  EXPECT_TRUE(log.find(first)->done);
}

TEST(CollectiveLog, WaitedWorkThatStillRunsOnADeviceStaysPending) {
  CollectiveLog log;
  bool ended = false;
  const auto id = log.start("all_reduce", "world", {0, 1}, 1);
  log.attach(id, [&] { return ended; });
  log.finish(id);
  EXPECT_TRUE(log.oldest_pending(std::chrono::steady_clock::now() + seconds(1)));
  ended = true;
  EXPECT_FALSE(log.oldest_pending(std::chrono::steady_clock::now() + seconds(1)));
  for (int i = 0; i < 100; ++i) log.finish(log.start("barrier", "world", {0, 1}, 0));
  EXPECT_EQ(log.last(1000).size(), 32u);
}

TEST(LocalPeers, SeeAProcessEnd) {
  testing_support::Program program({"/bin/sleep", "100"}, {});
  const auto start = process_start(program.pid());
  ASSERT_TRUE(start);
  // Rank 2's process id belongs to another process by now, and rank 3 cannot be seen: nothing is said about either.
  const LocalPeers peers(fmt::format("0 {} 1\n1 {} {}\n2 {} {}\n3 999999999 5\n", getpid(), program.pid(), *start,
                                     program.pid(), *start + 1),
                         0);
  EXPECT_THAT(peers.ended(), testing::IsEmpty());
  program.signal(SIGKILL);
  for (int i = 0; i < 500 && peers.ended().empty(); ++i) usleep(10000);
  EXPECT_THAT(peers.ended(), testing::ElementsAre(1));  // a zombie has ended too
}

TEST(ControlStore, TheFirstErrorStays) {
  LocalStoreSocket socket;
  const WorldInfo world{.world_size = 2, .master_addr = "127.0.0.1", .master_port = socket.port(), .agent_store = true, .run_id = "r"};
  const auto a = with_prefix(control_prefix(world), serve_local_store(std::move(socket)));
  const auto b = with_prefix(control_prefix(world), connect_store(world, seconds(10)));
  EXPECT_FALSE(try_get(*b, kErrorKey));
  EXPECT_TRUE(publish_error(*b, {.rank = 1, .reporter = 1, .exit_code = 2, .text = "bad \xff byte"}));
  EXPECT_FALSE(publish_error(*a, {.rank = 0, .reporter = 0, .exit_code = 1, .text = "later"}));
  const ErrorReport report = ErrorReport::from_json(*try_get(*a, kErrorKey));
  EXPECT_EQ(report.rank, 1);
  EXPECT_EQ(report.exit_code, 2);
  EXPECT_THAT(report.text, HasSubstr("bad "));
}

TEST(ControlStore, AMissingServerIsARunErrorThatNamesTheAddress) {
  quiet_torch_logs();
  WorldInfo world{.rank = 1, .world_size = 2, .master_addr = "127.0.0.1"};
  world.master_port = LocalStoreSocket().port();  // closed again at once
  try {
    connect_store(world, seconds(1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("rank 1"));
    EXPECT_THAT(e.what(), HasSubstr("cannot reach the control store at 127.0.0.1:"));
    EXPECT_THAT(e.what(), Not(HasSubstr("frame #")));
  }
}

}  // namespace
}  // namespace moraine
