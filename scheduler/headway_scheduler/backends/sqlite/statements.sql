-- Every statement that runs on an open database, by name.
-- rows.py declares the columns of each table: $calls lists those of table calls, $calls_values their
-- numbered placeholders, and $calls_excluded sets each to the value of the row that was refused.
-- Texts are cast because a text with a lone surrogate is bound as bytes. LIMIT -1 means no limit.

-- writer_settings: Has each commit return only when it is on the disk.
PRAGMA synchronous = FULL;
PRAGMA fullfsync = ON; -- without it, fsync on macOS leaves the data in the drive's cache
PRAGMA foreign_keys = ON;
PRAGMA cache_size = -32768; -- KiB: ids are random, so a commit touches pages all over the indexes
PRAGMA journal_size_limit = 67108864; -- one huge batch must not leave a huge log behind

-- insert_call: Writes a call as it arrives.
INSERT INTO calls ($calls) VALUES ($calls_values);

-- update_call: Writes how far a call has come. Of its request, only class and route may change.
UPDATE calls SET $calls_changed WHERE seq = ?1;

-- save_bucket: Writes what is free of one limit, over the older value.
INSERT INTO buckets ($buckets) VALUES ($buckets_values)
ON CONFLICT (quota, resource) DO UPDATE SET $buckets_excluded;

-- save_run: Writes a run as it is now, over the older row.
INSERT INTO runs ($runs) VALUES ($runs_values)
ON CONFLICT (id) DO UPDATE SET $runs_excluded;

-- save_request: Writes a request that goes by batch, over the older one of its call.
INSERT INTO batched_requests ($batched_requests) VALUES ($batched_requests_values)
ON CONFLICT (call_id) DO UPDATE SET
    model = excluded.model, endpoint = excluded.endpoint, body = excluded.body,
    created_at = excluded.created_at, batch_id = excluded.batch_id, answer = excluded.answer;

-- forget_batched: Deletes the requests of calls that are batched no more.
DELETE FROM batched_requests WHERE call_id NOT IN (SELECT id FROM calls WHERE state = 'batched');

-- forget_batches: Deletes batches whose answers are all on disk.
DELETE FROM provider_batches WHERE state = 'ended';

-- save_batch: Writes a batch of the provider as it is now, over the older row.
INSERT INTO provider_batches ($provider_batches) VALUES ($provider_batches_values)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, created_at = excluded.created_at,
    file_id = excluded.file_id, provider_id = excluded.provider_id;

-- provider_batches: Batches that have not ended, oldest first.
SELECT $provider_batches FROM provider_batches WHERE state <> 'ended' ORDER BY created_at, id;

-- batched_requests: The requests of a batch; without one, those that are in none.
SELECT $batched_requests FROM batched_requests WHERE batch_id IS CAST(:batch_id AS TEXT) ORDER BY rowid;

-- gathered: How many requests are in no batch, and how long they are, by model and endpoint.
SELECT model, endpoint, count(*) AS calls, sum(length(CAST(body AS BLOB))) AS bytes,
    min(created_at) AS since
FROM batched_requests WHERE batch_id IS NULL GROUP BY model, endpoint ORDER BY since;

-- batch_answers: The provider's responses to the batched calls of a run.
SELECT batched_requests.call_id, batched_requests.answer
FROM calls JOIN batched_requests ON batched_requests.call_id = calls.id
WHERE calls.run_id = CAST(:run_id AS TEXT) AND calls.state = 'batched'
    AND batched_requests.answer IS NOT NULL;

-- runs_to_wake: Runs that wait for a call by batch which is answered, or which left its batch.
SELECT $runs FROM runs WHERE state = 'waiting' AND waits_for IN (
    SELECT calls.id FROM runs AS waiting JOIN calls ON calls.id = waiting.waits_for
    LEFT JOIN batched_requests ON batched_requests.call_id = calls.id
    WHERE waiting.waits_for IS NOT NULL AND calls.lane = 'batch'
        AND (calls.state <> 'batched' OR batched_requests.answer IS NOT NULL)
) ORDER BY created_at, rowid;

-- unwanted_calls: Batched calls of runs that have ended for good.
SELECT calls.id FROM calls INDEXED BY calls_live JOIN runs ON runs.id = calls.run_id
WHERE (calls.state = 'queued' OR calls.state = 'admitted' OR calls.state = 'sent' OR calls.state = 'batched')
    AND calls.state = 'batched' AND runs.state IN ('completed', 'cancelled');

-- insert_try: Appends an attempt that brought no answer.
INSERT INTO tries ($tries) VALUES ($tries_values);

-- count_waits: Adds to how many calls waited about as long.
INSERT INTO waits ($waits) VALUES ($waits_values)
ON CONFLICT (span, at, priority, team, bucket) DO UPDATE SET calls = calls + excluded.calls;

-- save_crowd: Writes the most calls that waited in a minute. Two leaders may have counted in it.
INSERT INTO crowds ($crowds) VALUES ($crowds_values)
ON CONFLICT (at, priority) DO UPDATE SET
    waiting = max(waiting, excluded.waiting), in_flight = max(in_flight, excluded.in_flight);

-- prune_tries: Deletes old tries, and those that are more than so many; 2,000 at most.
DELETE FROM tries WHERE id IN (
    SELECT id FROM tries WHERE ended_at < ?1 OR id <= (SELECT max(id) FROM tries) - ?2 LIMIT 2000
);

-- prune_waits: Deletes old waits of a span; 2,000 at most.
DELETE FROM waits WHERE (span, at, priority, team, bucket) IN (
    SELECT span, at, priority, team, bucket FROM waits WHERE span = ?1 AND at < ?2 LIMIT 2000
);

-- prune_crowds: Deletes old crowds; 2,000 at most.
DELETE FROM crowds WHERE (at, priority) IN (
    SELECT at, priority FROM crowds WHERE at < ? LIMIT 2000
);

-- has_outdated: Whether there is history to prune.
SELECT
    EXISTS (SELECT 1 FROM tries WHERE ended_at < :tries_since)
    OR coalesce((SELECT max(id) - min(id) FROM tries), 0) >= :most_tries
    OR EXISTS (SELECT 1 FROM waits WHERE span = 60 AND at < :minutes_since)
    OR EXISTS (SELECT 1 FROM waits WHERE span = 3600 AND at < :hours_since)
    OR EXISTS (SELECT 1 FROM crowds WHERE at < :crowds_since);

-- tries: Attempts that ended at some time or later, the last ones, newest first.
SELECT $tries FROM tries WHERE ended_at >= :since ORDER BY ended_at DESC, id DESC
LIMIT coalesce(:limit, -1);

-- tries_of_run: Attempts of one run that ended at some time or later, newest first.
SELECT $tries FROM tries WHERE run_id = CAST(:run_id AS TEXT) AND ended_at >= :since
ORDER BY id DESC LIMIT coalesce(:limit, -1);

-- waits: How many calls waited how long, by spans that began at some time or later.
SELECT $waits FROM waits WHERE span = :span AND at >= :since
ORDER BY at, priority, team, bucket LIMIT coalesce(:limit, -1);

-- crowds: How many calls waited at most, by minutes that began at some time or later.
SELECT $crowds FROM crowds WHERE at >= :since ORDER BY at, priority LIMIT coalesce(:limit, -1);

-- ended: Calls of the last so many that ended at some time or later, by their quotas.
SELECT quotas, count(*) AS calls, coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens
FROM (
    SELECT quotas, finished_at, input_tokens, output_tokens FROM calls ORDER BY seq DESC LIMIT :most
)
WHERE finished_at >= :since AND quotas <> '[]' GROUP BY quotas ORDER BY quotas;

-- insert_change: Appends what an operator changed.
INSERT INTO changes ($changes) VALUES ($changes_values);

-- save_lesson: Writes what was learned of a subject, over the older value.
INSERT INTO lessons ($lessons) VALUES ($lessons_values)
ON CONFLICT (kind, subject) DO UPDATE SET value = excluded.value;

-- raise_epoch: Begins the term of a new leader: commits of earlier leaders are refused from here on.
UPDATE leadership SET epoch = epoch + 1, starts = starts + 1 RETURNING epoch, starts;

-- begin_term: Notes that the leader's start succeeded: no failed starts in a row any more.
UPDATE leadership SET starts = 0;

-- anchor: The boot that seconds are counted from, and the offset from there to wall time.
SELECT boot, clock_offset FROM leadership;

-- set_anchor: Has all processes agree on a new boot and offset.
UPDATE leadership SET boot = ?, clock_offset = ?;

-- epoch: The epoch of the current leader.
SELECT epoch FROM leadership;

-- post_request: Appends a request of another process to the leader.
INSERT INTO inbox (sender, event) VALUES (?, ?);

-- answer_request: Writes the answer to a request, unless it has one.
UPDATE inbox SET answer = CAST(? AS TEXT) WHERE id = ? AND answer IS NULL;

-- forget_requests: Deletes answered requests but the last 1,000, whose senders may still look.
DELETE FROM inbox WHERE id <= (SELECT max(id) FROM inbox) - 1000 AND answer IS NOT NULL;

-- try_request: Writes how many leaders have begun to carry out a request.
UPDATE inbox SET tries = ? WHERE id = ?;

-- set_request_aside: Copies a request that ended one leader after the other, for `headway db`.
INSERT INTO set_aside (at, kind, name, why, row)
SELECT
    (julianday('now') - 2440587.5) * 86400.0, 'request', id || ' of ' || sender, CAST(?2 AS TEXT),
    json_object('id', id, 'sender', sender, 'event', event)
FROM inbox WHERE id = ?1;

-- take_request: Deletes a request that was carried out; a notification tells its sender.
DELETE FROM inbox WHERE id = ?;

-- notify: Appends a notification to a worker.
INSERT INTO outbox (worker, text) VALUES (CAST(? AS TEXT), CAST(? AS TEXT));

-- forget_notifications: Deletes what a worker has read.
DELETE FROM outbox WHERE worker = CAST(? AS TEXT) AND id <= ?;

-- save_schedule: Writes a schedule, and what became of it, over the older row.
INSERT INTO schedules ($schedules) VALUES ($schedules_values)
ON CONFLICT (name) DO UPDATE SET $schedules_excluded;

-- forget_schedule: Deletes a schedule.
DELETE FROM schedules WHERE name = CAST(? AS TEXT);

-- schedules: Every schedule, by name.
SELECT $schedules FROM schedules ORDER BY name;

-- save_notice: Writes what is to be told, over the older row.
INSERT INTO notices ($notices) VALUES ($notices_values)
ON CONFLICT (id) DO UPDATE SET attempts = excluded.attempts, not_before = excluded.not_before;

-- forget_notice: Deletes what was told, or will not be.
DELETE FROM notices WHERE id = CAST(? AS TEXT);

-- notices: What is to be told, oldest first.
SELECT $notices FROM notices ORDER BY at, rowid LIMIT coalesce(:limit, -1);

-- save_worker: Lists a process that executes runs, with how many it takes at once.
INSERT INTO workers ($workers) VALUES ($workers_values)
ON CONFLICT (id) DO UPDATE SET
    slots = excluded.slots, takes_interrupted = excluded.takes_interrupted,
    workflows = excluded.workflows;

-- forget_worker: Deletes a process that executes no more runs.
DELETE FROM workers WHERE id = CAST(? AS TEXT);

-- forget_lost_notifications: Deletes notifications to processes that are gone.
DELETE FROM outbox WHERE worker NOT IN (SELECT id FROM workers);

-- insert_piece: Writes a text of a prompt, unless it is there.
INSERT INTO pieces ($pieces) VALUES ($pieces_values) ON CONFLICT DO NOTHING;

-- insert_link: Writes a node of a prompt's chain, unless it is there.
INSERT INTO links ($links) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- forget_runs: Deletes the ended runs of a JSON list, but not the ancestors of runs that stay.
WITH RECURSIVE
named (id) AS (SELECT value FROM json_each(CAST(? AS TEXT))),
ended (id) AS (SELECT id FROM runs WHERE state IN ('completed', 'failed', 'cancelled')),
kept (id) AS (
    SELECT parent FROM runs
    WHERE parent IS NOT NULL AND NOT (id IN (SELECT id FROM named) AND id IN (SELECT id FROM ended))
    UNION
    SELECT runs.parent FROM runs JOIN kept USING (id) WHERE runs.parent IS NOT NULL
)
DELETE FROM runs
WHERE id IN (SELECT id FROM named) AND id IN (SELECT id FROM ended) AND id NOT IN kept;

-- forget_calls: Deletes the calls of those runs of a JSON list that are gone.
DELETE FROM calls
WHERE run_id IN (SELECT value FROM json_each(CAST(? AS TEXT)))
    AND run_id NOT IN (SELECT id FROM runs);

-- forget_budgets: Deletes the spent dollars of those runs of a JSON list that are gone.
DELETE FROM buckets
WHERE resource = 'dollars'
    AND quota IN (SELECT 'run ' || value FROM json_each(CAST(?1 AS TEXT)))
    AND quota NOT IN (SELECT 'run ' || id FROM runs);

-- forget_tries: Deletes the tries of those runs of a JSON list that are gone.
DELETE FROM tries
WHERE run_id IN (SELECT value FROM json_each(CAST(? AS TEXT)))
    AND run_id NOT IN (SELECT id FROM runs);

-- forget_links: Deletes nodes that no call's prompt passes through.
DELETE FROM links WHERE hash NOT IN (
    WITH RECURSIVE kept (hash) AS (
        SELECT hash FROM links WHERE lower(hex(hash)) IN (SELECT request_hash FROM calls)
        UNION
        SELECT links.parent FROM links JOIN kept USING (hash) WHERE links.parent IS NOT NULL
    )
    SELECT hash FROM kept WHERE hash IS NOT NULL
);

-- forget_pieces: Deletes texts that no node names.
DELETE FROM pieces WHERE hash NOT IN (SELECT piece FROM links);

-- prompt: The texts of a prompt, the last one first.
WITH RECURSIVE chain (parent, piece, place) AS (
    SELECT parent, piece, 0 FROM links WHERE hash = :hash
    UNION ALL
    SELECT links.parent, links.piece, chain.place + 1
    FROM chain JOIN links ON links.hash = chain.parent
)
SELECT pieces.text FROM chain JOIN pieces ON pieces.hash = chain.piece ORDER BY chain.place;

-- probe: Reads the schema and one path down the largest table, to notice damage early.
SELECT max(seq) FROM calls;

-- next_seq: The arrival number of the next call. Numbers that no Headway gives are passed over.
SELECT coalesce(max(seq) + 1, 0) FROM calls WHERE seq < 1000000000000;

-- buckets: Every bucket.
SELECT $buckets FROM buckets ORDER BY quota, resource;

-- standing_changes: The last change of each kind and target, oldest first.
SELECT $changes FROM changes
WHERE id IN (SELECT max(id) FROM changes GROUP BY kind, target) ORDER BY id;

-- changes: Every change, newest first.
SELECT $changes FROM changes ORDER BY id DESC LIMIT coalesce(:limit, -1);

-- lessons: Everything that was learned.
SELECT $lessons FROM lessons ORDER BY kind, subject;

-- live_calls: Calls that have not ended, in some states (JSON list), by arrival.
SELECT $calls FROM calls INDEXED BY calls_live
WHERE (state = 'queued' OR state = 'admitted' OR state = 'sent' OR state = 'batched') -- as the index
    AND state IN (SELECT value FROM json_each(:states))
ORDER BY seq LIMIT coalesce(:limit, -1);

-- calls: Calls of every run in some states (JSON list; all, if empty), by arrival.
SELECT $calls FROM calls
WHERE :states = '[]' OR state IN (SELECT value FROM json_each(:states))
ORDER BY seq LIMIT coalesce(:limit, -1);

-- calls_of_run: Calls of one run in some states (JSON list; all, if empty), by arrival.
SELECT $calls FROM calls INDEXED BY calls_by_run
WHERE run_id = CAST(:run_id AS TEXT)
    AND (:states = '[]' OR state IN (SELECT value FROM json_each(:states)))
ORDER BY seq LIMIT coalesce(:limit, -1);

-- runs_like: Runs whose id starts with a text. No text sorts after U+10FFFF, so this is a range.
SELECT $runs FROM runs
WHERE id >= CAST(:prefix AS TEXT) AND id < CAST(:prefix AS TEXT) || char(1114111)
ORDER BY id LIMIT :limit;

-- run_with_key: The run of an idempotency key.
SELECT $runs FROM runs WHERE key = CAST(:key AS TEXT);

-- runs: Runs of a team, or of all (null), newest first.
SELECT $runs FROM runs WHERE :team IS NULL OR coalesce(team, workflow) = CAST(:team AS TEXT)
ORDER BY created_at DESC, rowid DESC LIMIT coalesce(:limit, -1);

-- urgent_runs: Runs in some states (JSON list), the most urgent class first, the oldest of it first.
SELECT $runs FROM runs WHERE state IN (SELECT value FROM json_each(:states))
ORDER BY priority, created_at, rowid LIMIT coalesce(:limit, -1);

-- runs_in: Runs in some states (JSON list), of a team or of all (null), newest first.
SELECT $runs FROM runs WHERE state IN (SELECT value FROM json_each(:states))
    AND (:team IS NULL OR coalesce(team, workflow) = CAST(:team AS TEXT))
ORDER BY created_at DESC, rowid DESC LIMIT coalesce(:limit, -1);

-- assigned_runs: Runs that a worker executes, or is about to execute.
SELECT $runs FROM runs WHERE worker IS NOT NULL ORDER BY worker, rowid;

-- spent: Usage of the calls that were answered, billed or lost: a row for all calls that are alike.
SELECT
    CASE CAST(:by AS TEXT)
        WHEN 'run' THEN coalesce(runs.id, '')
        WHEN 'workflow' THEN coalesce(runs.workflow, '')
        WHEN 'team' THEN coalesce(runs.team, runs.workflow, '')
        WHEN 'day' THEN date(calls.submitted_at, 'unixepoch')
        WHEN 'model' THEN calls.model
    END AS "key",
    calls.model, calls.input_tokens, calls.output_tokens, calls.usage_parts, calls.usd, calls.usd_source,
    coalesce(max(calls.finished_at), 0.0) AS last_at,
    sum(calls.state = 'done' OR calls.input_tokens IS NOT NULL) AS calls,
    sum(calls.losses) AS lost
FROM calls LEFT JOIN runs ON runs.id = calls.run_id
WHERE calls.kind IN ('model', 'sdk') AND calls.submitted_at >= :since
    AND (calls.state = 'done' OR calls.input_tokens IS NOT NULL OR calls.losses > 0)
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 1, 2, 3, 4;

-- waiting_requests: Requests without an answer that are not in hand (JSON list), oldest first.
SELECT id, sender, event, tries FROM inbox INDEXED BY inbox_waiting
WHERE answer IS NULL AND id NOT IN (SELECT value FROM json_each(:in_hand)) ORDER BY id LIMIT :limit;

-- request_answer: The answer to a request, NULL before it has one; no row if it was deleted.
SELECT answer FROM inbox WHERE id = :id;

-- notifications: The notifications to a worker that it has not read.
SELECT id, text FROM outbox WHERE worker = :worker AND id > :after ORDER BY id LIMIT :limit;

-- is_listed: Whether a worker has a row. It loses its row when others take it for dead.
SELECT EXISTS (SELECT 1 FROM workers WHERE id = :worker) AS is_listed;

-- workers: The processes that execute runs, oldest first.
SELECT $workers FROM workers ORDER BY since, id;

-- oddities: Rows that contradict others: they lack what they need, or are alive in an ended run.
SELECT 'a prompt lacks a text of its own: link' AS what, hex(links.hash) AS subject
FROM links LEFT JOIN pieces ON pieces.hash = links.piece
WHERE pieces.hash IS NULL
UNION ALL
SELECT 'a prompt lacks its beginning: link', hex(links.hash)
FROM links LEFT JOIN links AS parents ON parents.hash = links.parent
WHERE links.parent IS NOT NULL AND parents.hash IS NULL
UNION ALL
SELECT 'an answer is marked as done and is not there: call', calls.id
FROM calls WHERE calls.state = 'done' AND calls.answer IS NULL
UNION ALL
SELECT 'a call waits in a run that has ended: call', calls.id
FROM calls JOIN runs ON runs.id = calls.run_id
WHERE (calls.state = 'queued' OR calls.state = 'admitted' OR calls.state = 'sent')
    AND runs.state IN ('completed', 'cancelled')
UNION ALL
SELECT 'a run is a copy of one that is gone: run', runs.id
FROM runs LEFT JOIN runs AS parents ON parents.id = runs.parent
WHERE runs.parent IS NOT NULL AND parents.id IS NULL
LIMIT :limit;

-- answers_not_there: Calls that are done and have no answer.
SELECT rowid FROM calls WHERE state = 'done' AND answer IS NULL;

-- calls_of_the_ended: Calls that wait or are in flight in a run that has ended.
SELECT calls.rowid FROM calls JOIN runs ON runs.id = calls.run_id
WHERE calls.state IN ('queued', 'admitted', 'sent') AND runs.state IN ('completed', 'cancelled');

-- copies_of_none: Runs that began as a copy of a run that is gone.
SELECT runs.rowid FROM runs LEFT JOIN runs AS parents ON parents.id = runs.parent
WHERE runs.parent IS NOT NULL AND parents.id IS NULL;

-- every_request: Requests that have no answer.
SELECT id, sender, event FROM inbox WHERE answer IS NULL ORDER BY id;

-- every_notification: All notifications that workers have not read.
SELECT id, worker, text FROM outbox ORDER BY id;

-- set_aside: Copies a row that could not be read, for `headway db`.
INSERT INTO set_aside (at, kind, name, why, row) VALUES (?, ?, ?, ?, ?);

-- rows_set_aside: Rows that could not be read, in the order in which they were set aside.
SELECT kind, name, why FROM set_aside ORDER BY id;

-- end_calls: Cancels the queued calls of a run that was set aside.
UPDATE calls SET state = 'cancelled', error = 'its run could not be read, and was set aside'
WHERE run_id = CAST(? AS TEXT) AND state = 'queued';
