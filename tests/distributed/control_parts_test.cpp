// The parts of the control plane that need no second process.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>
#include <system_error>

#include "distributed/control/collective_log.h"
#include "distributed/control/control_store.h"
#include "distributed/control/heartbeat.h"
#include "distributed/control/listening_sockets.h"
#include "distributed/control/local_peers.h"
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
  const Heartbeat beat{
      .count = 7, .stage = "load \xff", .last_collective = "x", .sequences = {{"ep", 3}}, .done = true};
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
  ListeningSocket socket;
  const WorldInfo world{
      .world_size = 2, .master_addr = "127.0.0.1", .master_port = socket.port(), .agent_store = true, .run_id = "r"};
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
  world.master_port = ListeningSocket().port();  // closed again at once
  try {
    connect_store(world, seconds(1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("rank 1"));
    EXPECT_THAT(e.what(), HasSubstr("cannot reach the control store at 127.0.0.1:"));
    EXPECT_THAT(e.what(), Not(HasSubstr("frame #")));
  }
}

TEST(ControlStore, WhatAStrangerWroteIsNoReportAndNoHeartbeat) {
  for (const char* text : {"", "{", "[]", "{}", R"({"rank":"x"})"}) {
    const ErrorReport report = ErrorReport::from_json(text);
    EXPECT_EQ(report.rank, -1);
    EXPECT_EQ(report.exit_code, 1);
    EXPECT_THAT(report.text, HasSubstr("no rank wrote"));
    EXPECT_FALSE(read_heartbeat(text));
  }
  EXPECT_EQ(ErrorReport::from_json(R"({"rank":0,"reporter":0,"exit_code":0,"text":""})").exit_code, 1);
  EXPECT_FALSE(read_heartbeat(std::nullopt));
}

TEST(ControlStore, ListensWhereMasterAddressIs) {
  quiet_torch_logs();
  const auto served_at = [](const std::string& master_addr, const std::string& reached_at,
                            const std::string& warning = "") {
    WorldInfo world{.rank = 0, .world_size = 2, .num_nodes = 2, .master_addr = master_addr};
    world.master_port = ListeningSocket().port();
    StartWatch watch("rank 0", seconds(20), seconds(20));
    testing::internal::CaptureStderr();
    const auto server = serve_store(world, watch);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(warning));
    world.master_addr = reached_at;
    connect_store(world, seconds(5))->set("k", "v");
    EXPECT_EQ(try_get(*server, "k"), "v");
    std::set<std::string> reachable;
    for (const char* address : {"127.0.0.1", "127.0.0.2", "::1"}) {
      if (!connection_error(address, world.master_port, seconds(1))) reachable.insert(address);
    }
    return reachable;
  };
  EXPECT_EQ(served_at("127.0.0.2", "127.0.0.2"), std::set<std::string>{"127.0.0.2"});
  // A name of this host (a number in another notation) that stands for loopback here: the other hosts know it by
  // another address.
  EXPECT_THAT(served_at("2130706433", "127.0.0.1"), testing::IsSupersetOf({"127.0.0.1", "127.0.0.2"}));
  EXPECT_THAT(served_at("192.0.2.1", "127.0.0.1", "192.0.2.1 is no address of"),
              testing::IsSupersetOf({"127.0.0.1", "127.0.0.2"}));
  bool has_ipv6 = true;
  try {
    ListeningSocket("::1", 0);
  } catch (const std::system_error&) {
    has_ipv6 = false;
  }
  if (has_ipv6) {
    EXPECT_EQ(served_at("::1", "::1"), std::set<std::string>{"::1"});
  }
}

TEST(NetworkAddress, OtherHostsKnowOneBySomeOfItsAddresses) {
  using Addresses = std::vector<std::string>;
  EXPECT_EQ(addresses_for_other_hosts({"127.0.1.1", "10.0.0.5", "fe80::1%eth0"}), Addresses{"10.0.0.5"});
  EXPECT_EQ(addresses_for_other_hosts({"2001:db8::5", "::1", "10.0.0.5"}), (Addresses{"2001:db8::5", "10.0.0.5"}));
  EXPECT_TRUE(addresses_for_other_hosts({"127.0.1.1", "169.254.3.4"}).empty());
}

TEST(NetworkAddress, NamesAndFailuresAreToldInTheSystemsWords) {
  EXPECT_EQ(resolve_host("127.0.0.1").numbers, std::vector<std::string>{"127.0.0.1"});
  const HostAddresses none = resolve_host("no-such-host.invalid");
  EXPECT_TRUE(none.numbers.empty());
  EXPECT_NE(none.why_none, "");
  const uint16_t closed = ListeningSocket().port();
  EXPECT_EQ(connection_error("127.0.0.1", closed, seconds(1)), "Connection refused");
  EXPECT_EQ(with_port("::1", 80), "[::1]:80");
}

TEST(ListeningSockets, OneThatIsToldToStopKeepsItsDescriptor) {
  ListeningSocket owner;
  const uint16_t port = owner.port();
  const std::set<int> sockets = listening_sockets();
  const int fd = owner.release();
  EXPECT_TRUE(sockets.contains(fd));
  stop_listening(fd);  // no epoll instance has it
  EXPECT_FALSE(connection_error("127.0.0.1", port, seconds(1)));
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{.events = EPOLLIN, .data = {}};
  ASSERT_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
  stop_listening(fd);
  EXPECT_EQ(connection_error("127.0.0.1", port, seconds(1)), "Connection refused");
  EXPECT_FALSE(listening_sockets().contains(fd));
  EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  EXPECT_EQ(accept(fd, nullptr, nullptr), -1);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr), 0);
  close(epoll);
  close(fd);
}

}  // namespace
}  // namespace moraine
