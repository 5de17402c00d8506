"""An authority on disk and its replacement, and keys that are renewed in place: also when power is cut between."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.cluster import authority, identity
from shoal.cluster.authority import (
    CA_KEY_FILE,
    copy_authority,
    create_authority,
    load_authority,
    rotate,
)
from shoal.cluster.certificates import (
    CertificateError,
    check_issued,
    check_vouched,
    cluster_of,
    fingerprint,
    make_ca,
    make_key,
    make_request,
    root_of_key,
    roots,
    sign,
    subject_of,
    vouch,
)
from shoal.cluster.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE, NEXT_KEY_FILE, issue, load_identity
from shoal.errors import ConfigError

OLD, NEW = make_ca("reef"), make_ca("reef")


class TestBundle:
    """`ca_pem` with more than one authority."""

    both = OLD.certificate + NEW.certificate

    def test_each_authority_is_found(self) -> None:
        assert roots(self.both) == (OLD.certificate, NEW.certificate)
        assert root_of_key(self.both, NEW.key) == NEW.certificate
        assert cluster_of(self.both) == "reef"

    @pytest.mark.parametrize("signer", [OLD, NEW], ids=["old", "new"])
    def test_what_either_signed_is_taken(self, signer: authority.Authority) -> None:
        certificate = sign(signer, make_request("board", make_key()), "reef", "board")
        check_issued(certificate, self.both)
        other = NEW if signer is OLD else OLD
        with pytest.raises(CertificateError, match="not of this authority"):
            check_issued(certificate, other.certificate)

    def test_authorities_of_two_clusters_are_refused(self) -> None:
        with pytest.raises(CertificateError, match="several clusters"):
            cluster_of(OLD.certificate + make_ca("lagoon").certificate)

    @pytest.mark.parametrize(
        "pem", [b"", b"noise", OLD.key, OLD.certificate * 5], ids=["none", "noise", "key", "many"]
    )
    def test_what_is_no_authority_is_refused(self, pem: bytes) -> None:
        with pytest.raises(CertificateError):
            roots(pem)

    def test_a_key_of_none_of_them_is_refused(self) -> None:
        with pytest.raises(CertificateError, match="belongs to none"):
            root_of_key(self.both, make_key())


class TestVouching:
    """A statement signed with the authority's key."""

    def test_it_holds_for_this_statement_and_this_authority_alone(self) -> None:
        signature = vouch(OLD, b"statement")
        check_vouched(OLD.certificate, b"statement", signature)
        for root, statement, signed in (
            (NEW.certificate, b"statement", signature),
            (OLD.certificate, b"another", signature),
            (OLD.certificate, b"statement", b""),
            (OLD.certificate, b"statement", bytes(64)),
        ):
            with pytest.raises(CertificateError, match="has not signed"):
                check_vouched(root, statement, signed)


class TestOnDisk:
    """The directory of an authority."""

    def test_it_is_made_once_and_only_its_owner_reads_the_key(self, tmp_path: Path) -> None:
        made = create_authority(tmp_path / "ca", "reef")
        assert load_authority(tmp_path / "ca") == made
        assert (tmp_path / "ca" / CA_KEY_FILE).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
        with pytest.raises(ConfigError, match="another directory"):
            create_authority(tmp_path / "ca", "reef")

    def test_a_directory_without_one_says_how_to_make_it(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="shoal ca init"):
            load_authority(tmp_path)

    @pytest.mark.parametrize("name", [CA_FILE, CA_KEY_FILE])
    @pytest.mark.parametrize("content", [b"", b"noise", NEW.certificate, NEW.key])
    def test_files_that_do_not_fit_are_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        create_authority(tmp_path, "reef")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be used"):
            load_authority(tmp_path)

    def test_a_node_that_gets_a_copy_signs_as_the_original(self, tmp_path: Path) -> None:
        made = create_authority(tmp_path / "ca", "reef")
        issue(made.signing, "board", tmp_path / "board")
        copy_authority(tmp_path / "ca", tmp_path / "board")
        assert load_authority(tmp_path / "board") == made
        load_identity(tmp_path / "board")


class TestRotation:
    """begin, switch, finish."""

    def test_the_steps_trust_and_sign_as_they_say(self, tmp_path: Path) -> None:
        old = create_authority(tmp_path, "reef").signing
        begun = rotate(tmp_path, "begin")
        assert begun.signing == old
        assert roots(begun.ca_pem)[0] == old.certificate
        switched = rotate(tmp_path, "switch")
        assert switched.signing != old
        assert set(roots(switched.ca_pem)) == {old.certificate, switched.signing.certificate}
        finished = rotate(tmp_path, "finish")
        assert finished.signing == switched.signing
        assert finished.ca_pem == switched.signing.certificate
        assert finished.cluster_id == "reef"
        assert finished.next_step == "begin"

    def test_another_step_than_the_due_one_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        create_authority(tmp_path, "reef")
        for due in ("begin", "switch", "finish"):
            before = {path: path.read_bytes() for path in tmp_path.iterdir()}
            for other in {"begin", "switch", "finish"} - {due}:
                with pytest.raises(ConfigError, match=f"next step is '{due}'"):
                    rotate(tmp_path, other)
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
            rotate(tmp_path, due)

    def test_a_step_that_power_cut_short_is_taken_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = create_authority(tmp_path, "reef")
        writes = iter([True, False])
        real = authority.write_durably

        def cut(*arguments: object, **options: object) -> None:
            if not next(writes):
                raise OSError("power cut")
            real(*arguments, **options)  # type: ignore[arg-type] # as they came

        with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
            patch.setattr(authority, "write_durably", cut)
            rotate(tmp_path, "begin")
        assert load_authority(tmp_path) == made
        rotate(tmp_path, "begin")
        rotate(tmp_path, "switch")
        assert rotate(tmp_path, "finish").signing != made.signing


class TestRenewal:
    """A node's key that is replaced beside the old one."""

    def test_a_new_key_takes_the_place_of_the_old_one(self, tmp_path: Path) -> None:
        issue(OLD, "board", tmp_path)
        first = load_identity(tmp_path)
        issue(OLD, "board", tmp_path, renew=True)
        second = load_identity(tmp_path)
        assert (first.node_id, second.node_id) == ("board", "board")
        assert first.key_hash != second.key_hash
        assert not (tmp_path / NEXT_KEY_FILE).exists()

    def test_a_new_certificate_keeps_the_key(self, tmp_path: Path) -> None:
        issue(OLD, "board", tmp_path)
        first = load_identity(tmp_path)
        issue(NEW, "board", tmp_path, ca_pem=OLD.certificate + NEW.certificate)
        assert load_identity(tmp_path).key_hash == first.key_hash

    @pytest.mark.parametrize("writes", range(4))
    def test_power_may_be_cut_at_any_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
    ) -> None:
        """Key, authorities, certificate, then the rename: after each the node starts, with one key or the other."""
        issue(OLD, "board", tmp_path)
        first = load_identity(tmp_path).key_hash
        left = [writes]

        def cutting(real):
            def call(*arguments: object, **options: object) -> None:
                if not left[0]:
                    raise OSError("power cut")
                left[0] -= 1
                real(*arguments, **options)

            return call

        with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
            for name in ("write_durably", "move_durably"):
                patch.setattr(identity, name, cutting(getattr(identity, name)))
            issue(OLD, "board", tmp_path, renew=True)
        there = load_identity(tmp_path).key_hash
        assert (there == first) == (writes < 3)
        issue(OLD, "board", tmp_path, renew=True)
        assert load_identity(tmp_path).key_hash != first

    def test_a_renewal_that_is_repeated_uses_the_same_key(self, tmp_path: Path) -> None:
        issue(OLD, "board", tmp_path)
        assert identity.node_key(tmp_path, renew=True) == identity.node_key(tmp_path, renew=True)

    @pytest.mark.parametrize("name", [CA_FILE, CERTIFICATE_FILE, KEY_FILE])
    @pytest.mark.parametrize("content", [b"", b"noise", NEW.certificate, NEW.key])
    def test_files_that_do_not_fit_together_are_no_identity(
        self, tmp_path: Path, name: str, content: bytes
    ) -> None:
        issue(OLD, "board", tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="enrol it again"):
            load_identity(tmp_path)


def test_a_fingerprint_tells_authorities_of_one_name_apart() -> None:
    certificate = sign(OLD, make_request("board", make_key()), "reef", "board")
    assert len(fingerprint(certificate)) == 32
    assert fingerprint(OLD.certificate) != fingerprint(NEW.certificate)
    assert subject_of(certificate).node_id == "board"
