"""Which board is asked: the leader for what it decides, those that the cluster names while it does."""

from shoal.client.boards import Board, Boards


def three() -> tuple[Boards, Board, Board, Board]:
    """Boards a, b and c, where the nodes A, B and C answer; B leads."""
    boards = Boards(["a", "b", "c"])
    a, b, c = (boards.pick(0) for _ in range(3))
    boards.answered(a, "A", "follower")
    boards.answered(b, "B", "leader")
    boards.answered(c, "C", "follower")
    return boards, a, b, c


def test_the_leader_comes_first_where_it_is_wanted_and_all_take_turns_where_not() -> None:
    boards, a, b, c = three()
    assert [boards.pick(0, leader_first=True) for _ in range(3)] == [b, b, b]
    assert {boards.pick(0) for _ in range(3)} == {a, b, c}


def test_a_leader_that_failed_or_was_asked_is_not_asked_first() -> None:
    boards, _, b, _ = three()
    assert boards.pick(0, {b}, leader_first=True) is not b
    assert boards.pick(0, (), {b}, leader_first=True) is not b
    boards.failed(b, 0)
    assert b not in {boards.pick(0, leader_first=True) for _ in range(3)}
    boards.answered(b)
    assert {boards.pick(0, leader_first=True) for _ in range(3)} > {b}  # it may lead no more


def test_who_says_it_leads_no_more_is_no_leader() -> None:
    boards, a, b, c = three()
    boards.answered(b, "B", "follower")
    assert {boards.pick(0, leader_first=True) for _ in range(3)} == {a, b, c}


def test_a_board_that_reaches_no_leader_may_tell_who_it_is() -> None:
    boards, a, _, c = three()
    boards.without_leader(a, 0, "C")
    assert boards.pick(0, leader_first=True) is c
    assert a not in {boards.pick(999) for _ in range(3)}
    assert a in {boards.pick(1_000) for _ in range(3)}


def test_a_board_that_reaches_no_leader_does_not_lead() -> None:
    boards, _, b, _ = three()
    boards.without_leader(b, 0, "B")
    assert len({boards.pick(1_000, leader_first=True) for _ in range(3)}) == 3


def test_reaching_no_leader_is_no_failure_that_counts() -> None:
    boards, a, _, _ = three()
    for _ in range(9):
        boards.without_leader(a, 0)
    boards.failed(a, 0)
    assert a.resting_until_ms == 1_000


def test_one_that_is_busy_is_asked_only_if_there_is_no_other() -> None:
    boards = Boards(["a", "b"])
    a, b = boards.pick(0), boards.pick(0)
    boards.failed(b, 0)
    assert boards.pick(0, (), [a]) is b
    assert boards.pick(0, (), [a, b]) is a


def test_members_are_learned_and_forgotten_and_what_was_given_stays() -> None:
    boards = Boards(["a"])
    boards.learn({"A": "a", "B": "b", "C": "c"}, "C")
    assert {boards.pick(0).url for _ in range(3)} == {"a", "b", "c"}
    assert boards.pick(0, leader_first=True).url == "c"
    boards.learn({"B": "b"}, None)
    assert {boards.pick(0).url for _ in range(3)} == {"a", "b"}
    boards.learn({}, None)
    assert {boards.pick(0).url for _ in range(3)} == {"a"}
    assert len(boards) == 1


def test_what_is_known_of_a_member_outlives_the_next_list() -> None:
    boards = Boards(["a"])
    boards.learn({"A": "a", "B": "b"}, None)
    b = next(board for board in boards.likeliest(0) if board.url == "b")
    boards.failed(b, 0)
    boards.learn({"A": "a", "B": "b"}, None)
    assert boards.likeliest(0)[-1] is b
    assert [boards.pick(10).url for _ in range(2)] == ["a", "a"]


def test_a_node_that_answers_at_a_given_url_is_not_asked_at_its_own_as_well() -> None:
    boards = Boards(["given"])
    given = boards.pick(0)
    boards.answered(given, "A", "follower")
    boards.learn({"A": "own", "B": "b"}, None)
    assert {board.url for board in boards.likeliest(0)} == {"given", "b"}
    boards.failed(given, 0)
    boards.learn({"A": "own", "B": "b"}, None)
    assert {board.url for board in boards.likeliest(0)} == {"given", "own", "b"}
