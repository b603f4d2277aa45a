"""What keeps a state manager, and what it holds, from strangers: each promise, the tests that hold us to
it, and a change to the code that breaks it.

``test_points`` checks that the tests and the places of the changes are there; ``python -m tests.security``
makes each change in a copy of the package and shows that one of its tests fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A safeguard, taken out.

    Attributes:
        file: In the package.
        old: Text that occurs there once.
        new: What stands there instead.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Point:
    """One promise.

    Attributes:
        promise: In a sentence.
        tests: ``folder/module::test``, below ``tests``.
        without: A change that one of the tests must notice; None where a library keeps the promise.
    """

    promise: str
    tests: Sequence[str]
    without: Change | None = None


ACCESS = "manager/security/access.py"
APP = "manager/app.py"
SERVING = "manager/serving.py"
BODIES = "manager/api/bodies.py"
DASHBOARD = "manager/web/app.py"
GATE = "_httpd/limiter.py"
GUARD = "manager/web/guard.py"
HTTP = "_httpd/messages.py"
KEYS = "manager/security/api_key.py"
KEY_FILES = "manager/security/secret_files.py"
OWN_FILES = "_util/own_files.py"
RUNS = "manager/engine/runs.py"
SECRETS = "manager/store/cipher.py"
SESSIONS = "manager/security/sessions.py"
SIGN_IN_PAGE = "manager/web/sign_in.py"
WRONG_KEYS = "manager/security/wrong_keys.py"
WORKERS = "manager/engine/workers.py"
POSTGRES = "manager/store/postgres/"
HANGS, END = "manager/store/test_postgres_hangs", "manager/store/test_postgres_end"
LEASES = "manager/test_leases"
FAILOVER = "manager/test_failover"

POINTS = (
    # -- who comes in
    Point(
        "It binds 127.0.0.1 unless told otherwise.",
        ["manager/test_access::test_a_server_binds_this_machine_only_unless_told_otherwise"],
        Change(SERVING, '    host: str = "127.0.0.1",\n', '    host: str = "0.0.0.0",\n'),
    ),
    Point(
        "Every route but probes, sign-in and style sheets asks for the key or a session.",
        [
            "security/test_strangers::test_a_stranger_is_told_nothing_and_changes_nothing",
            "contract/test_conventions::test_every_route_refuses_a_missing_or_wrong_key",
            "manager/test_access::test_without_the_key_nothing_is_told_not_even_what_exists",
        ],
        Change(
            ACCESS,
            'elif scope["path"] in self._open_paths:',
            'elif not scope["path"].startswith("/v0/"):',
        ),
    ),
    Point(
        "The key is checked before anything is read of a body.",
        [
            "manager/test_access::test_strangers_are_answered_before_their_body_is_read",
            "contract/test_conventions::test_the_key_is_checked_before_the_body",
        ],
        Change(
            ACCESS,
            "        elif self._is_key(",
            "        elif (await receive()) and self._is_key(",
        ),
    ),
    Point(
        "Keys are compared in constant time.",
        ["manager/test_access::test_keys_are_compared_in_constant_time"],
        Change(
            ACCESS,
            'hmac.compare_digest(sent_key.encode("latin-1", "replace"), self._key)',
            'sent_key.encode("latin-1", "replace") == self._key',
        ),
    ),
    Point(
        "A key is always asked for: from the argument, a file, the environment, or made and kept.",
        [
            "manager/test_keys::test_the_first_source_that_gives_a_key_wins",
            "manager/test_keys::test_on_loopback_a_key_is_made_once_and_kept_beside_the_database",
            "manager/test_keys::test_an_empty_key_is_refused_on_loopback_too",
            "manager/test_keys::test_in_memory_a_key_is_needed_since_nobody_could_find_a_generated_one",
        ],
        Change(KEYS, "    if not key:\n", "    if key is None:\n"),
    ),
    Point(
        "Off loopback a key that stands in public documentation is refused.",
        ["manager/test_keys::test_off_loopback_a_key_is_needed_that_not_everybody_knows"],
        Change(KEYS, "if key in PUBLISHED_KEYS and not local:", "if False:"),
    ),
    Point(
        "The key is in no log, and nothing of a malformed request is repeated to whoever sent it.",
        [
            "manager/test_access::test_the_key_is_in_no_log",
            "httpd/test_server::test_a_refusal_repeats_nothing_of_the_request",
            "http/test_endpoint::test_neither_key_nor_password_appears_in_texts",
        ],
        Change(HTTP, "_QUOTED.sub('', str(error))", "str(error)"),
    ),
    Point(
        "On loopback only loopback names are served as Host; elsewhere those of --allowed-host.",
        [
            "manager/test_access::test_on_loopback_only_loopback_names_are_served",
            "manager/test_access::test_an_allowed_host_is_served_and_no_other",
            "manager/web/test_access::test_a_host_that_is_not_served_gets_nothing",
        ],
        Change(SERVING, "if is_loopback(host) else allowed_hosts or None", "if is_loopback(host) else None"),
    ),
    Point(
        "Pages of other origins may not call the API unless they are named, and never the dashboard.",
        [
            "manager/test_access::test_no_origin_is_let_in_unless_it_is_named",
            "manager/test_access::test_a_named_origin_gets_its_preflight_without_a_key_and_its_answers_exposed",
            "manager/web/test_access::test_origins_that_may_call_the_api_cannot_read_the_dashboard",
        ],
        Change(APP, 'await (pages if pages.serves(scope["path"]) else api)(', "await api("),
    ),
    # -- the dashboard
    Point(
        "A session's cookie is not the key, is no script's, and is sent by no other site.",
        ["manager/web/test_access::test_the_key_opens_a_session_whose_cookie_is_not_the_key"],
        Change(GUARD, "httponly=True", "httponly=False"),
    ),
    Point(
        "No cookie of an unauthenticated client is parsed in more than linear time (CVE-2024-7592).",
        ["manager/web/test_access::test_no_cookie_of_an_unauthenticated_client_is_read_by_http_cookies"],
        Change(
            SIGN_IN_PAGE,
            "await self.sessions.find(guard.read_cookie(request, guard.cookie_name(request)))",
            'await self.sessions.find(request.cookies.get(guard.cookie_name(request), ""))',
        ),
    ),
    Point(
        "Of a Cookie header no more is read than a browser sends.",
        ["manager/web/test_access::test_the_cookie_of_a_session_is_found_among_others_within_a_limit"],
        Change(GUARD, '.get("cookie", "")[:MAX_COOKIES]', '.get("cookie", "")'),
    ),
    Point(
        "Behind a proxy for HTTPS every cookie is Secure.",
        ["manager/web/test_access::test_behind_a_proxy_for_https_the_cookies_are_secure_also_after_a_link"],
        Change(GUARD, 'if "https" in (request.url.scheme, forwarded):', 'if request.url.scheme == "https":'),
    ),
    Point(
        "A form that does not come from a page of our own changes nothing.",
        ["manager/web/test_access::test_a_form_from_elsewhere_changes_nothing"],
        Change(GUARD, "if not host or _origin_host(origin).lower() != host.lower():", "if not host:"),
    ),
    Point(
        "Who guesses keys at the sign-in form is slowed down, and keeps nobody else out.",
        ["manager/web/test_access::test_who_guesses_is_slowed_down_and_the_right_key_is_not"],
        Change(
            SIGN_IN_PAGE,
            "if waited := await self._wrong_keys.delay_refusal(client_address(request.scope), key):",
            "if waited := 0:",
        ),
    ),
    Point(
        "The database tells neither a session nor a link that signs in, and another key opens neither.",
        ["manager/web/test_access::test_a_session_outlasts_a_restart_but_not_another_key"],
        Change(
            SESSIONS,
            'return hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), "sha256").hex()',
            "return token",
        ),
    ),
    Point(
        "Who signs out is signed out at once.",
        ["manager/web/test_access::test_signing_out_ends_the_session_on_the_server"],
        Change(SESSIONS, "        self._ended += 1\n        self._open.pop(session, None)\n", ""),
    ),
    Point(
        "A session that is ended while it is looked up is not kept.",
        ["manager/web/test_access::test_a_session_that_is_ended_while_it_is_looked_up_is_not_kept"],
        Change(SESSIONS, "if ended == self._ended:", "if True:"),
    ),
    Point(
        "A page that only refreshes itself does not keep its session open.",
        ["manager/web/test_access::test_a_page_that_only_refreshes_itself_does_not_keep_its_session_open"],
        Change(
            SIGN_IN_PAGE, "if found is not None and not guard.is_automatic(request):", "if found is not None:"
        ),
    ),
    Point(
        "Searches hold up nobody's sign-in: sessions and links have other threads.",
        ["manager/test_readers::test_sessions_and_links_are_looked_up_while_others_search"],
        Change(
            SESSIONS,
            "return await self._store.read(query, digest)",
            "return await self._store.read_with_deadline(query, digest)",
        ),
    ),
    Point(
        "Guessed sessions take at most one of the threads that runtimes need.",
        ["manager/test_readers::test_guessed_sessions_take_one_of_the_threads_that_runtimes_need"],
        Change(SESSIONS, "            async with self._querying:\n", "            if True:\n"),
    ),
    Point(
        "Of many networks that sent wrong keys, the last are kept in memory.",
        ["manager/test_access::test_of_many_networks_each_state_manager_keeps_the_last_in_memory"],
        Change(WRONG_KEYS, "while len(self._failures) >= MAX_NETWORKS:", "while False:"),
    ),
    Point(
        "A client that reads a backup slowly keeps no other client from making one.",
        ["manager/test_backup::test_a_client_that_reads_a_backup_slowly_makes_room_for_another_one"],
        Change("manager/api/operations.py", "            self._write.cancel()\n", ""),
    ),
    Point(
        "Who signs out is signed out at every state manager within seconds.",
        [
            "manager/web/test_access::test_who_is_signed_in_at_one_state_manager_is_so_at_all_until_they_sign_out_at_one"
        ],
        Change(SESSIONS, "and now - known.found_at < TRUSTED_FOR", ""),
    ),
    Point(
        "A link that signs in does so once, at whatever state manager.",
        ["manager/web/test_access::test_a_session_and_a_link_are_known_to_every_state_manager"],
        Change(
            SESSIONS,
            "DELETE FROM sign_in_links WHERE id = ? AND until >= ?",
            "UPDATE sign_in_links SET until = until WHERE id = ? AND until >= ?",
        ),
    ),
    Point(
        "Who guesses links, or signs out without a session, writes nothing to the database.",
        [
            "manager/web/test_access::test_who_is_not_signed_in_writes_nothing_by_signing_out_or_guessing_links"
        ],
        Change(SESSIONS, "if not await self._query(is_link_valid, link):", "if False:"),
    ),
    Point(
        "Who guesses keys without a pause cannot keep the database busy.",
        ["manager/test_access::test_who_guesses_without_a_pause_writes_no_more_than_is_counted"],
        Change(WRONG_KEYS, "async with self._counting:", "async with trio.Lock():"),
    ),
    Point(
        "Who guesses keys guesses at all state managers together.",
        ["manager/test_access::test_wrong_keys_at_all_state_managers_on_a_database_count_together"],
        Change(WRONG_KEYS, 'left: int = max(0, row["until"] - tx.now_ms)', "left = 0"),
    ),
    Point(
        "A wrong key, which may be the key of something else, is not kept.",
        ["manager/test_access::test_no_wrong_key_and_of_many_addresses_only_the_last_are_kept"],
        Change(
            WRONG_KEYS,
            'digest = hmac.digest(self._digest_key, key.encode("utf-8", "replace"), "sha256").hex()',
            "digest = sha256(key.encode()).hexdigest()",
        ),
    ),
    Point(
        "Who guesses keys at the API is slowed down, and keeps nobody else out.",
        [
            "manager/test_access::test_who_guesses_is_slowed_down_and_the_right_key_is_not",
            "manager/test_access::test_wrong_keys_count_by_address_and_are_forgotten",
        ],
        Change(ACCESS, "await self._wrong_keys.delay_refusal(client_address(scope), key)", "pass"),
    ),
    Point(
        "A client with an old key is no guesser.",
        [
            "manager/test_access::test_a_client_with_an_old_key_or_none_is_told_so_at_once_each_time",
            "manager/test_access::test_an_old_key_counts_once_at_however_many_state_managers",
        ],
        Change(WRONG_KEYS, "if key not in keys:", "if True:"),
    ),
    Point(
        "Off loopback a key that can be guessed is refused.",
        ["manager/test_keys::test_off_loopback_a_key_is_needed_that_not_everybody_knows"],
        Change(KEYS, "if len(key) < MIN_LENGTH and not local:", "if False:"),
    ),
    Point(
        "Nothing of users becomes markup, and no page loads or runs anything from elsewhere.",
        [
            "manager/web/test_pages::test_nothing_of_users_becomes_markup_and_no_page_holds_the_key",
            "manager/web/test_hostile::test_whatever_users_and_workers_fill_in_is_text_on_every_page",
            "manager/web/test_hostile::test_no_template_declares_anything_safe",
            "manager/web/test_access::test_every_answer_has_the_strict_policy_and_is_not_kept",
        ],
        Change("manager/web/page.py", "autoescape=True", "autoescape=False"),
    ),
    Point(
        "A sign-in leads to paths of our own only.",
        ["manager/web/test_access::test_a_sign_in_leads_to_local_paths_only"],
        Change(GUARD, "if odd or parts.scheme", "if parts.scheme"),
    ),
    Point(
        "A key is not sent without a warning to an address that another source names.",
        ["http/test_endpoint::test_a_key_is_not_sent_unasked_to_an_address_from_another_source"],
        Change("_http/endpoint.py", "if uri_in_file != key_in_file and", "if False and"),
    ),
    Point(
        "Where metrics have a port of their own nothing else is served.",
        ["manager/test_operations::test_metrics_may_have_a_port_of_their_own_where_nothing_else_is_served"],
        Change(
            SERVING, "scraped = _metrics_app(service, metrics, key=chosen.text, host=host)", "scraped = app"
        ),
    ),
    # -- files in shared folders
    Point(
        "No link of a lock or a key is followed.",
        [
            "manager/test_own_files::test_a_lock_that_is_a_link_leads_to_no_file_of_ours",
            "manager/test_own_files::test_a_key_beside_the_database_is_no_link",
        ],
        Change(OWN_FILES, "flags | os.O_NOFOLLOW |", "flags |"),
    ),
    Point(
        "A file or a link that belongs to a stranger is not taken for ours.",
        [
            "manager/test_own_files::test_no_file_of_a_stranger_is_opened_as_ours",
            "manager/test_own_files::test_a_key_that_a_stranger_put_beside_the_database_is_not_ours",
        ],
        Change(OWN_FILES, "if found.st_uid not in {", "if False and found.st_uid not in {"),
    ),
    Point(
        "The files that SQLite reads with a database are a stranger's neither.",
        ["manager/test_own_files::test_no_file_of_a_stranger_is_opened_as_ours"],
        Change("manager/store/sqlite/database.py", "            check_beside(path)\n", ""),
    ),
    Point(
        "No link of a stranger leads to a database.",
        ["manager/test_own_files::test_no_link_of_a_stranger_is_followed_to_a_database"],
        Change(OWN_FILES, "    if path.is_symlink():", "    if False:"),
    ),
    Point(
        "A database that everybody can change is refused.",
        ["manager/test_own_files::test_a_database_that_everybody_can_change_is_refused"],
        Change(OWN_FILES, "if found.st_mode & stat.S_IWOTH:", "if False:"),
    ),
    Point(
        "Of a key that others can read there is a warning.",
        ["manager/test_own_files::test_of_a_key_that_others_can_read_a_warning_says_how_to_end_that"],
        Change(KEY_FILES, "    if found.st_mode & stat.S_IROTH and", "    if False and"),
    ),
    Point(
        "The folder with keys is kept out of repositories.",
        ["manager/test_own_files::test_a_folder_that_is_made_is_kept_out_of_repositories"],
        Change(OWN_FILES, 'if folder.name == ".exotrio":', "if False:"),
    ),
    # -- secrets
    Point(
        "Secrets are encrypted at rest, in every file, and in no log.",
        ["manager/test_secrets::test_the_plain_value_is_in_no_file_and_no_log"],
        Change(
            SECRETS,
            "AESGCM(key).encrypt(nonce, value.encode(), _bound_to(namespace, graph, name))",
            "value.encode()",
        ),
    ),
    Point(
        "A ciphertext is worth nothing in another namespace, graph or name.",
        [
            "manager/test_secrets::test_a_ciphertext_is_bound_to_its_namespace_graph_and_name",
            "manager/test_secrets::test_a_ciphertext_that_was_moved_in_the_database_is_worth_nothing",
        ],
        Change(SECRETS, "return json.dumps([namespace, graph, name]).encode()", 'return b""'),
    ),
    Point(
        "The key for secrets is one of its own, made at random; it and the database are their owner's only.",
        [
            "manager/test_secrets::test_the_key_for_secrets_has_nothing_to_do_with_the_api_key",
            "manager/test_database::test_only_their_owner_may_read_the_folder_and_its_files",
        ],
        Change(KEY_FILES, 'os.O_EXCL, 0o600), "w")', 'os.O_EXCL, 0o644), "w")'),
    ),
    Point(
        "State managers that share a PostgreSQL have the same key for secrets; none makes one of its own.",
        ["manager/test_which_database::test_no_key_for_secrets_is_generated_where_others_need_the_same_one"],
        Change("manager/security/encryption.py", "    if shared:\n", "    if not shared:\n"),
    ),
    Point(
        "The password of a database is in no argument, no log and no error.",
        [
            "cli/test_database_option::test_a_password_in_the_arguments_is_refused_and_not_printed",
            "manager/test_postgres_start::test_two_that_start_at_once_on_an_empty_database_serve_and_show_the_password_nowhere",
            "manager/test_postgres_start::test_what_does_not_get_right_by_waiting_ends_it_at_once",
            "util/test_database_url::test_a_url_is_shown_without_its_passwords",
        ],
        Change("cli/options.py", 'parse_database_url(text, source="the arguments").secrets:', "False:"),
    ),
    Point(
        "Keys for secrets can be exchanged, whatever happens meanwhile; the old one opens old backups only.",
        [
            "manager/test_rotation::test_a_start_with_a_new_key_in_front_encrypts_everything_with_it",
            "manager/test_rotation::test_killed_half_way_everything_is_read_with_the_old_key",
            "manager/test_rotation::test_a_backup_from_before_is_read_with_the_old_key",
            "manager/test_rotation::test_a_key_that_was_taken_away_too_early_is_named_and_costs_nothing",
            "manager/test_rotation::test_no_file_keeps_what_the_old_key_could_read",
        ],
        Change(
            "manager/security/encryption.py",
            "        await _forget_log(store)\n        logger",
            "        logger",
        ),
    ),
    Point(
        "A node is given the secrets it declares and no other.",
        ["contract/test_secrets::test_a_node_gets_no_secret_that_it_does_not_declare"],
        Change(
            RUNS,
            "{view.any_of('name')}",
            "({view.any_of('name')} OR 1 = 1)",
        ),
    ),
    Point(
        "Secrets are given while a state is claimed, and not before or after.",
        ["contract/test_secrets::test_secrets_are_only_handed_out_while_a_state_is_claimed"],
        Change(RUNS, '    if state["status"] != QUEUED:\n', "    if False:\n"),
    ),
    Point(
        "Under a lease they are given to its holder.",
        ["contract/test_native_outcomes::test_secrets_under_a_lease_are_for_its_holder"],
        Change(RUNS, 'if state["token"] is not None and token != state["token"]:', "if False:"),
    ),
    Point(
        "No list, reply or refusal shows a secret's value.",
        [
            "contract/test_nodes_and_graphs::test_secrets_are_never_shown",
            "contract/test_nodes_and_graphs::test_the_list_of_graphs_shows_secrets_by_name_only",
            "manager/test_access::test_a_refused_body_is_not_echoed",
        ],
        Change(
            "manager/api/json.py",
            'None if "secrets" in location else _echo(problem["input"])',
            '_echo(problem["input"])',
        ),
    ),
    Point(
        "A refusal names a hundred problems at most.",
        ["manager/test_access::test_a_refusal_is_short_however_long_what_it_refuses_is"],
        Change("manager/api/json.py", "include_context=False)[:MAX_PROBLEMS]", "include_context=False)"),
    ),
    Point(
        "Of a list of bad items no more problems are made than a refusal tells.",
        ["security/test_limits::test_of_many_bad_items_no_more_problems_are_made_than_a_refusal_tells"],
        Change(
            "_wire/v0.py",
            "outputs: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_OUTPUTS)]",
            "outputs: Annotated[list[dict[str, Any]], Field(max_length=MAX_OUTPUTS)]",
        ),
    ),
    Point(
        "Of an object of bad entries no more problems are made than a refusal tells.",
        ["security/test_limits::test_of_many_bad_entries_no_more_problems_are_made_than_a_refusal_tells"],
        Change("graph/declaration.py", "or len(values) <= PART:", "or True:"),
    ),
    Point(
        "The values in a large body are counted before it is parsed, and too many are refused.",
        ["security/test_limits::test_a_body_with_too_many_values_is_refused_before_it_is_parsed"],
        Change(BODIES, "            if values > MAX_VALUES:\n", "            if False:\n"),
    ),
    Point(
        "Marks within the texts of a body do not count as values.",
        ["security/test_limits::test_values_in_a_body_are_counted_and_not_the_marks_in_its_texts"],
        Change(BODIES, """.replace(b'\\\\"', b"")""", ""),
    ),
    Point(
        "A large body is parsed in a thread.",
        ["security/test_limits::test_a_large_body_is_parsed_in_a_thread"],
        Change(BODIES, "        if len(body) <= LARGE:\n", "        if True:\n"),
    ),
    Point(
        "All large bodies that are handled at the same time have a largest number of values together.",
        ["security/test_limits::test_large_bodies_wait_for_the_values_of_those_that_are_handled"],
        Change(BODIES, "await self._values.acquire(values)", "self._values.used += values"),
    ),
    Point(
        "A large body that was handled or refused makes room for the next ones.",
        ["security/test_limits::test_large_bodies_wait_for_the_values_of_those_that_are_handled"],
        Change("manager/api/routing.py", "                release()\n", "                pass\n"),
    ),
    Point(
        "Lists of graphs are made by pages of a largest size.",
        ["manager/test_graph_pages::test_a_list_of_v0_is_the_same_whether_it_is_made_by_pages_or_at_once"],
        Change("manager/queries/graphs.py", "total <= MAX_PAGE_BYTES", "True"),
    ),
    Point(
        "An outcome has a largest number of outputs.",
        ["security/test_limits::test_an_outcome_has_a_largest_number_of_outputs"],
        Change("_wire/v0.py", "Field(fail_fast=True, max_length=MAX_OUTPUTS)", "Field(fail_fast=True)"),
    ),
    Point(
        "A transaction has a largest number of outputs.",
        ["security/test_limits::test_outcomes_with_many_outputs_together_are_recorded_in_steps"],
        Change("manager/api/native.py", "            if outputs > MAX_OUTPUTS:\n", "            if False:\n"),
    ),
    Point(
        "A claim names no more nodes than a runtime can register.",
        ["security/test_limits::test_a_claim_names_no_more_nodes_than_a_runtime_can_register"],
        Change("_wire/native.py", "PartByPart, Field(max_length=MAX_BATCH)]", "PartByPart]"),
    ),
    Point(
        "A refused graph names a hundred problems at most.",
        ["security/test_limits::test_a_graph_with_many_problems_names_a_hundred"],
        Change("manager/rules/problems.py", "islice(rest, MAX_PROBLEMS)", "rest"),
    ),
    Point(
        "Graphs have a largest number of edges.",
        ["security/test_limits::test_a_graph_has_a_largest_number_of_edges_and_of_triggers"],
        Change("_wire/graphs.py", "if excess := self.excess():", "if False:"),
    ),
    Point(
        "Graphs have a largest number of triggers.",
        ["security/test_limits::test_a_graph_has_a_largest_number_of_edges_and_of_triggers"],
        Change("_wire/graphs.py", "Field(fail_fast=True, max_length=MAX_TRIGGERS)", "Field(fail_fast=True)"),
    ),
    Point(
        "While a graph is checked others are served.",
        ["security/test_limits::test_while_a_graph_is_checked_others_are_served"],
        Change("manager/service.py", "if self.store.path is None and not self.store.is_shared:", "if True:"),
    ),
    Point(
        "A refusal does not repeat a long key.",
        ["manager/test_access::test_a_refusal_is_short_however_long_what_it_refuses_is"],
        Change("manager/api/json.py", "shortened(step, _MAX_ECHO)", "step"),
    ),
    Point(
        "The error that a node reports has secret values masked.",
        [
            "execution/test_executor::test_secrets_are_masked_in_the_error_and_in_the_log",
            "util/test_redaction::test_every_way_to_write_a_secret_is_masked",
            "util/test_redaction::test_base64_is_masked_whatever_stands_around_the_secret",
            "util/test_redaction::test_the_longest_secret_is_masked_first",
            "util/test_redaction::test_what_others_shortened_is_masked_on_both_sides_of_the_ellipsis",
        ],
        Change(
            "_execution/error_text.py",
            'bounded(redactor.redact(text.rstrip("\\n")))',
            'bounded(text.rstrip("\\n"))',
        ),
    ),
    Point(
        "Errors that were reported unmasked, as stock runtimes do, are stored with secret values masked.",
        ["contract/test_secrets::test_secrets_are_masked_in_errors_before_they_are_stored"],
        Change("manager/engine/masking.py", "redactor.redact(item.error)", "item.error"),
    ),
    Point(
        "What a node logs and prints leaves its runtime with the values of its secrets masked.",
        [
            "runtime/test_captured_logs::test_what_a_node_logs_and_prints_is_sent_with_its_outcome",
            "property/test_output::test_no_part_of_a_secret_is_kept_wherever_a_text_is_cut",
        ],
        Change("_execution/output.py", '"text": text', '"text": line.text'),
    ),
    Point(
        "A secret that is wrapped, or goes on in the next line of a log, is masked in each line.",
        [
            "util/test_redaction::test_a_secret_that_is_wrapped_is_masked_in_each_line",
            "util/test_redaction::test_a_secret_that_goes_on_in_the_next_text_is_masked_in_both",
            "contract/test_logs::test_secrets_of_the_graph_are_masked_in_lines_before_they_are_stored",
        ],
        Change("_util/redaction.py", "hidden[start : start + len(form)] = b", "_ = b"),
    ),
    Point(
        "Other writes do not wait while large secrets are masked: that happens before the transaction.",
        ["manager/test_secrets::test_others_are_served_while_the_secrets_of_a_graph_are_masked"],
        Change(
            BODIES,
            "await service.compute(mask, items, secrets)",
            "await service.store.write(lambda tx: mask(items, secrets))",
        ),
    ),
    Point(
        "What a node logs and prints is stored with the values of all secrets of the graph masked.",
        ["contract/test_logs::test_secrets_of_the_graph_are_masked_in_lines_before_they_are_stored"],
        Change("manager/engine/logs.py", '"text": text,\n            }', '"text": line.text,\n            }'),
    ),
    Point(
        "Names that runtimes give themselves are cleaned and masked in exports.",
        ["manager/web/test_export::test_the_names_that_runtimes_give_themselves_are_cleaned_and_masked"],
        Change("manager/web/report.py", 'texts.begin(state["worker"] or "")', 'state["worker"] or ""'),
    ),
    Point(
        "A start and doctor warn of a PostgreSQL on another machine that may be reached without TLS.",
        [
            "util/test_database_url::test_a_url_of_another_machine_that_does_not_require_tls_is_recognized",
            "manager/test_access::test_a_start_warns_of_a_database_elsewhere_that_is_reached_without_tls",
            "cli/test_doctor::test_a_database_elsewhere_without_tls_is_pointed_out",
        ],
        Change("_util/database_url.py", "return mode if mode in _UNENCRYPTED else None", "return None"),
    ),
    Point(
        "A link that signs in is in no arguments of a process, which every user of the machine can list.",
        ["cli/test_dev::test_a_button_of_the_dashboard_and_the_printed_command_start_runs"],
        Change("cli/dev/announcer.py", "open_in_browser(page.as_uri())", "open_in_browser(link)"),
    ),
    Point(
        "What nodes, graphs and state managers say is shown by commands and logs; no terminal obeys it.",
        [
            "cli/test_hostile::test_whatever_a_state_manager_says_is_shown_and_not_obeyed",
            "cli/test_hostile::test_what_nodes_and_graphs_say_is_shown_and_not_obeyed",
            "cli/test_hostile::test_bars_show_names_as_they_are",
        ],
        Change("_util/terminal_text.py", "\\x7f-\\x9f", "\\x7f"),
    ),
    Point(
        "A link that signs in is in no log.",
        [
            "manager/web/test_served::test_a_run_is_served_as_long_as_it_lasts_and_says_how_to_sign_in",
            "manager/web/test_served::test_on_a_terminal_the_link_is_shown_unless_it_shows_a_log",
        ],
        Change("cli/commands/run.py", "private=not as_json and sys.stderr.isatty()", "private=True"),
    ),
    Point(
        "JSON logs of a runtime have the secrets of the state masked, whoever wrote the line.",
        ["execution/test_executor::test_secrets_are_masked_in_what_a_node_and_its_libraries_log_as_json"],
        Change("cli/terminal/json_logs.py", "else execution.progress.redactor", "else NO_SECRETS"),
    ),
    Point(
        "Of a text that is cut within a secret nothing of that secret is left.",
        [
            "util/test_redaction::test_wherever_a_text_is_cut_nothing_of_a_secret_is_left",
            "manager/web/test_export::test_nothing_of_a_secret_is_left_where_what_was_read_begins_or_ends_within_it",
        ],
        Change("_util/redaction.py", "edge = self._edge\n", "edge = 0\n"),
    ),
    # -- limits
    Point(
        "Names have at most 256 characters, none of them a control character or a slash.",
        [
            "manager/test_access::test_what_cannot_be_a_name_is_422_and_a_slash_in_one_leads_nowhere",
            "contract/test_conventions::test_names_in_paths_are_percent_decoded",
        ],
        Change("graph/declaration.py", "    if len(name) > MAX_NAME:\n", "    if False:\n"),
    ),
    Point(
        "A request body has a largest size, with a length or without.",
        [
            "httpd/test_server::test_a_bad_request_is_refused_in_json_and_the_connection_closed",
            "contract/test_conventions::test_a_body_over_16_mib_is_refused_as_json",
        ],
        Change("_httpd/exchange.py", "if self._received > self._limits.max_body:", "if False:"),
    ),
    Point(
        "A request head has a largest size.",
        ["httpd/test_server::test_a_bad_request_is_refused_in_json_and_the_connection_closed"],
        Change(HTTP, "    if size > limits.max_head:\n", "    if False:\n"),
    ),
    Point(
        "A request with two lengths is refused: a proxy may have taken the other one.",
        ["httpd/test_server::test_a_bad_request_is_refused_in_json_and_the_connection_closed"],
        Change(HTTP, "    if chunked and length is not None:\n", "    if False:\n"),
    ),
    Point(
        "Batches, claims and graphs have largest sizes.",
        [
            "security/test_limits::test_a_batch_has_a_largest_size",
            "security/test_limits::test_a_claim_returns_no_more_than_a_batch",
            "security/test_limits::test_a_graph_has_a_largest_size",
        ],
        Change("manager/api/v0.py", "limit = min(body.batch_size, MAX_BATCH)", "limit = body.batch_size"),
    ),
    Point(
        "JSON that is nested too deeply is refused; what is taken can be read again.",
        [
            "security/test_limits::test_what_is_nested_deeply_can_be_read_again_or_is_refused",
            "manager/test_access::test_a_body_that_is_not_what_it_should_be_is_422_in_json",
        ],
    ),
    Point(
        "Numbers beyond all reason are refused, and are no server error.",
        [
            "security/test_limits::test_numbers_beyond_all_reason_are_no_server_error",
            "contract/test_conventions::test_integers_beyond_64_bits_are_no_server_error",
        ],
        Change(
            "_wire/body.py",
            "DelayMs = Annotated[int, Field(ge=0, le=MAX_DELAY_MS)]",
            "DelayMs = Annotated[int, Field(ge=0)]",
        ),
    ),
    Point(
        "Every error of the API is JSON.",
        [
            "contract/test_conventions::test_an_unknown_route_is_a_json_404",
            "contract/test_conventions::test_a_wrong_method_is_a_json_405",
            "manager/test_access::test_other_methods_are_405_in_json",
        ],
        Change("manager/api/json.py", "        case HTTPException():\n", "        case int():\n"),
    ),
    Point(
        "A defect is told to nobody but the log.",
        [
            "manager/test_access::test_a_defect_is_a_500_in_json_that_tells_nothing_and_has_its_request_id",
            "httpd/test_server::test_an_app_that_fails_before_it_answers_gives_a_500_and_the_server_lives",
        ],
        Change("manager/api/json.py", "DatabaseError, Exception), on_error", "DatabaseError), on_error"),
    ),
    Point(
        "Whatever is sent is answered without a 5xx, a hang or a word of our own code, and a refusal changes"
        " nothing.",
        [
            "fuzz/test_routes::test_a_route_takes_or_refuses_whatever_comes",
            "fuzz/test_routes::test_requests_of_all_kinds_leave_the_database_sound",
            "fuzz/test_streams::test_a_connection_takes_or_refuses_whatever_comes",
            "fuzz/test_streams::test_a_socket_takes_or_refuses_whatever_comes",
        ],
        Change(
            "manager/store/sqlite/commits.py",
            '            self.connection.execute("ROLLBACK TO use_case")\n',
            "",
        ),
    ),
    Point(
        "Names of nodes that nobody registered are not kept.",
        ["contract/test_workers::test_names_that_nobody_registered_are_not_kept"],
        Change(WORKERS, " if tx.registered(namespace, name) is not None}", "}"),
    ),
    Point(
        "Of a number of workers something is kept, and not of more.",
        ["security/test_limits::test_of_workers_under_ever_new_names_the_last_are_kept"],
        Change(WORKERS, "(MAX_TRIMMED, MAX_WORKERS)", "(0, MAX_WORKERS)"),
    ),
    Point(
        "No answer is kept on the way, or taken for a page.",
        ["httpd/test_server::test_every_answer_says_that_it_is_not_to_be_kept_or_guessed_at"],
        Change("_httpd/exchange.py", "for header in PRIVATE if", "for header in () if"),
    ),
    Point(
        "No answer of the server's own is kept on the way, or taken for a page.",
        ["httpd/test_server::test_every_answer_says_that_it_is_not_to_be_kept_or_guessed_at"],
        Change(HTTP, "% header for header in PRIVATE)", "% header for header in ())"),
    ),
    Point(
        "Searches, pages and exports hold up nothing that a runtime waits for.",
        ["manager/test_readers::test_what_runtimes_need_is_answered_while_others_search"],
        Change(
            "manager/store/readers.py",
            "query, DEADLINE, self._searches)",
            "query, DEADLINE, self._reads)",
        ),
    ),
    Point(
        "A search that takes too long is ended.",
        ["manager/test_readers::test_a_search_that_takes_too_long_is_ended_and_says_so"],
        Change("manager/store/sqlite/readers.py", "_INSTRUCTIONS = 500", "_INSTRUCTIONS = 10_000"),
    ),
    # -- slow clients, and many
    Point(
        "A client that sends its head slowly is refused.",
        [
            "httpd/test_server::test_a_head_that_trickles_is_refused",
            "httpd/test_server::test_a_new_connection_must_ask_within_the_head_limit",
        ],
        Change("_httpd/connection.py", "trio.move_on_after(limits.head) as", "trio.move_on_after(1e9) as"),
    ),
    Point(
        "A client that sends its body slowly is refused.",
        ["httpd/test_server::test_a_body_that_trickles_is_refused"],
        Change("_httpd/exchange.py", "trio.fail_after(max(0.0, self._body_time))", "trio.fail_after(1e9)"),
    ),
    Point(
        "A client that does not read its answer is dropped.",
        ["httpd/test_server::test_a_client_that_does_not_read_is_dropped_and_the_app_told"],
        Change("_httpd/peer.py", "with trio.fail_after(self._write):", "with trio.fail_after(1e9):"),
    ),
    Point(
        "A client that does not read, or does not close, delays no stop.",
        [
            "httpd/test_server::test_a_client_that_stopped_reading_does_not_delay_the_end_of_the_grace",
            "httpd/test_server::test_a_client_that_does_not_close_does_not_delay_the_end_of_the_grace",
        ],
        Change("_httpd/server.py", "nursery.cancel_scope.deadline = trio.current_time() + grace", "pass"),
    ),
    Point(
        "An idle connection is closed after a while, or when its place is needed: thousands do no harm.",
        [
            "security/test_crowd::test_thousands_of_idle_connections_keep_nobody_out",
            "httpd/test_server::test_an_idle_connection_is_closed_after_its_limit",
            "httpd/test_server::test_above_the_limit_the_longest_idle_connection_makes_room",
        ],
        Change("_httpd/connection.py", "timeout = limits.idle", "timeout = 1e9"),
    ),
    Point(
        "Connections that are slow with their heads, half closed or refused keep nobody out.",
        [
            "security/test_crowd::test_clients_that_never_come_to_their_request_keep_nobody_out",
            "httpd/test_server::test_connections_that_trickle_their_heads_keep_nobody_out",
        ],
        Change(GATE, "        self._keyless[connection] = now\n", ""),
    ),
    Point(
        "There are never more connections than the limit, and while all are busy new ones wait their turn.",
        ["httpd/test_server::test_while_every_connection_is_busy_new_ones_wait_their_turn"],
        Change(GATE, "while self._is_full:", "while False:"),
    ),
    Point(
        "Connections without a key have a share, so that strangers make it crowded for nobody.",
        ["httpd/test_server::test_clients_without_a_key_have_a_share_and_the_oldest_makes_room"],
        Change(GATE, " or len(self._keyless) >= self._max_keyless", ""),
    ),
    Point(
        "Strangers close no connection of somebody with the key.",
        ["security/test_crowd::test_clients_that_never_come_to_their_request_keep_nobody_out"],
        Change(GATE, "        self._authenticated += 1\n        self._keyless.pop(connection, None)\n", ""),
    ),
    Point(
        "Without a key a connection has a time in all.",
        ["httpd/test_server::test_a_client_without_a_key_has_a_time_in_all"],
        Change(GATE, "trio.CancelScope(deadline=now + limit))", "trio.CancelScope())"),
    ),
    Point(
        "Without a key a connection gets one answer.",
        ["httpd/test_server::test_a_client_without_a_key_gets_one_answer_for_each_connection"],
        Change("_httpd/exchange.py", " or not self._connection.is_authenticated:", ":"),
    ),
    Point(
        "With a session a browser keeps its connection.",
        ["security/test_crowd::test_a_browser_keeps_its_connection_once_somebody_is_signed_in"],
        Change(DASHBOARD, "            mark_authenticated(scope)\n", "            pass\n"),
    ),
    Point(
        "Of what strangers may send no more is read than a key needs, and for no longer.",
        [
            "manager/web/test_access::test_of_a_stranger_s_form_no_more_is_read_than_a_key_needs",
            "manager/web/test_access::test_a_form_that_trickles_is_refused",
        ],
        Change(
            SIGN_IN_PAGE,
            "await guard.read_form(request, max_bytes=guard.MAX_SIGN_IN_FORM)",
            "await guard.read_form(request)",
        ),
    ),
    Point(
        "All large bodies together have a largest size: others wait, and are read later.",
        ["httpd/test_server::test_a_large_body_waits_for_room_among_those_of_all_requests"],
        Change(
            "_httpd/exchange.py",
            "await self._in_flight.bodies.acquire(size)",
            "self._in_flight.bodies.used += size",
        ),
    ),
    Point(
        "A large body without a length waits, too.",
        ["httpd/test_server::test_a_large_body_waits_for_room_among_those_of_all_requests"],
        Change(
            "_httpd/exchange.py", "max(self._announced, self._received) > LARGE", "self._announced > LARGE"
        ),
    ),
    Point(
        "A large body does not wait without a limit.",
        ["httpd/test_server::test_a_large_body_that_finds_no_room_in_time_is_refused_and_may_be_sent_again"],
        Change(
            "_httpd/exchange.py",
            "with trio.move_on_after(self._limits.body):",
            "with trio.move_on_after(1e9):",
        ),
    ),
    Point(
        "All large answers together have a largest size.",
        ["httpd/test_server::test_an_answer_that_is_read_slowly_makes_room_for_others"],
        Change(
            "_httpd/exchange.py",
            "if is_large and not (self._in_flight.has_room(len(body)) or self._started):",
            "if False:",
        ),
    ),
    Point(
        "An answer that is read slowly makes room for others.",
        ["httpd/test_server::test_an_answer_that_is_read_slowly_makes_room_for_others"],
        Change("_httpd/budget.py", "            write.cancel()\n", ""),
    ),
    Point(
        "Of a client that is not admitted no chunk of a body is parsed.",
        ["httpd/test_server::test_of_a_client_that_is_not_admitted_no_chunk_is_parsed"],
        Change(
            "_httpd/exchange.py", "if not self._connection.is_authenticated and any(", "if False and any("
        ),
    ),
    Point(
        "The number of chunks of a body is limited by its length.",
        ["httpd/test_server::test_the_chunks_of_a_body_may_be_short_only_if_they_are_few"],
        Change("_httpd/exchange.py", "self._chunks += event.chunk_start", "pass"),
    ),
    Point(
        "The description of the API is made once, however many clients request it at the same time.",
        ["manager/test_openapi::test_however_many_ask_at_once_the_description_is_made_once"],
        Change("manager/api/openapi.py", "        if self._made is not None:  #", "        if False:  #"),
    ),
    # -- a database that fails, hangs, or is shared
    Point(
        "While wrong keys cannot be counted, each is refused with the longest delay.",
        [
            "manager/test_access::test_while_wrong_keys_cannot_be_counted_each_is_refused_with_the_longest_delay"
        ],
        Change(WRONG_KEYS, "return _Failures(math.inf, ())", "return _Failures(0, ())"),
    ),
    Point(
        "Metrics are served while a read hangs.",
        ["manager/test_operations::test_metrics_are_served_while_a_read_hangs"],
        Change("manager/api/metrics.py", "trio.move_on_after(MAX_LOOK)", "trio.CancelScope()"),
    ),
    Point(
        "A PostgreSQL that hangs counts as lost.",
        [f"{HANGS}::test_whether_a_commit_happened_that_a_server_does_not_answer_is_unknown"],
        Change(POSTGRES + "pipeline.py", "poll.poll(self.patience * 1000)", "poll.poll()"),
    ),
    Point(
        "A stop takes no longer than its grace lets it, also while the database hangs.",
        [f"{END}::test_a_stop_while_the_server_hangs_takes_no_longer_than_the_grace_lets_it"],
        Change(SERVING, "        grace=grace,\n        host=host,\n", "        host=host,\n"),
    ),
    Point(
        "No lease ends because the database failed for longer than a term.",
        [f"{LEASES}::test_no_lease_ends_because_the_database_failed_or_was_slow_for_longer_than_a_term"],
        Change("manager/background.py", "last, ended = now,", "last, ended = clock(),"),
    ),
    Point(
        "A state manager that sweeps is not lost.",
        [
            "manager/test_managers::test_a_manager_that_sweeps_is_not_lost_though_it_was_silent_or_was_taken_for_lost"
        ],
        Change(
            "manager/engine/managers.py",
            '        tx.execute("UPDATE managers SET seen_at = ? WHERE id = ?", (now, manager))\n',
            "",
        ),
    ),
    Point(
        "A lease is renewed for one holder only, whoever claims the state at the same time.",
        ["manager/test_races::test_a_lease_that_ended_is_renewed_while_the_state_is_claimed_again"],
        Change("manager/engine/leases.py", "numbers, locked=not in_process)", "numbers, locked=False)"),
    ),
    Point(
        "Nothing that is kept by number outlives a failover of PostgreSQL.",
        [f"{FAILOVER}::test_a_node_gets_its_own_states_though_the_failover_lost_it"],
        Change(
            POSTGRES + "epochs.py",
            "Epoch(mark, SharedCatalog(self._max_inputs))",
            "Epoch(mark, present.catalog if present else SharedCatalog(self._max_inputs))",
        ),
    ),
    Point(
        "No number is assigned again after a failover.",
        [f"{FAILOVER}::test_no_number_is_assigned_again_after_a_failover"],
        Change(
            POSTGRES + "database.py",
            "        raise_numbers(connection)\n        mark = _put_epoch",
            "        mark = _put_epoch",
        ),
    ),
    Point(
        "A primary of PostgreSQL that was replaced and comes back is refused.",
        [f"{FAILOVER}::test_a_primary_that_was_replaced_and_comes_back_is_refused"],
        Change(POSTGRES + "epochs.py", "    if mark.timeline < newest.timeline:", "    if False:"),
    ),
    Point(
        "A failover behind a pooler needs no more sessions than its pool has.",
        [
            "manager/store/test_postgres_waiting"
            "::test_an_epoch_begins_though_the_pooler_has_no_session_but_that_of_the_use_case"
        ],
        Change(
            POSTGRES + "epochs.py",
            "            connection.rollback()\n            self._enter(mark)\n",
            "            self._enter(mark)\n",
        ),
    ),
    Point(
        "A run ends though a failover lost an outcome of a runtime inside the state manager.",
        [f"{FAILOVER}::test_a_state_inside_the_process_whose_outcome_was_lost_is_taken_back_and_no_other"],
        Change(
            "manager/engine/managers.py", "        limit_held_inside(tx, manager, now)\n", "        pass\n"
        ),
    ),
    Point(
        "A PostgreSQL that is too old is refused.",
        [
            "manager/test_postgres_start::test_the_oldest_version_of_postgresql_that_is_served_is_named_and_an"
            "_older_one_refused"
        ],
        Change(POSTGRES + "server.py", "MIN_VERSION = 15", "MIN_VERSION = 14"),
    ),
    Point(
        "Runs are locked in one order.",
        ["manager/store/test_postgres::test_runs_are_locked_by_number_however_they_are_stored"],
        Change(
            "manager/store/port.py",
            "{self.any_of('id')} ORDER BY id FOR UPDATE",
            "{self.any_of('id')} FOR UPDATE",
        ),
    ),
    Point(
        "The clock of the database is measured by the answer that came soonest.",
        [
            "manager/store/test_postgres_clock::test_the_sample_that_was_answered_first_counts_wherever_it_comes"
        ],
        Change(POSTGRES + "clock.py", "took, offset = min(found)", "took, offset = found[0]"),
    ),
    # -- this machine
    Point(
        "A child process loads no code from a working directory that its parent does not load code from.",
        [
            "children/test_child_process::test_a_process_node_does_not",
            "children/test_child_process::test_dev_does_not",
            "children/test_child_process::test_worker_with_processes_does_not",
        ],
        Change("_children/child_process.py", '        options.append("-P")\n', "        pass\n"),
    ),
    Point(
        "A link that signs in is printed on a terminal only.",
        ["cli/test_dev::test_a_button_of_the_dashboard_and_the_printed_command_start_runs"],
        Change(
            "cli/terminal/browser.py",
            "    if sys.stderr.isatty() if private is None else private:\n",
            "    if True:\n",
        ),
    ),
    # -- clients
    Point(
        "A client warns once of a key that travels in clear off this machine.",
        ["http/test_connections::test_a_key_sent_in_clear_off_this_machine_is_warned_of_once"],
        Change(
            "_http/connections.py",
            '    log.warning("the API key travels',
            '    log.debug("the API key travels',
        ),
    ),
    Point(
        "A client follows no redirect: its key goes where it was meant to.",
        ["http/test_client::test_a_redirect_is_refused_with_its_location"],
        Change("_http/response.py", "    if 300 <= status < 400:\n", "    if False:\n"),
    ),
)
