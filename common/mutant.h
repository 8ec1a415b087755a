/* Seeded faults, to show that the simulator finds such faults (docs/TESTING.md): in a build with -Dmutants=true, MUTANT(name) is
 * true while the simulator has chosen that mutant. In every other build it is 0, and nothing is left of it. */
#ifndef CRSC_COMMON_MUTANT_H
#define CRSC_COMMON_MUTANT_H

#ifdef CRSC_MUTANTS

#define MUTANTS_LIST(X) \
    X(skip_sync, "a group of records is not synced") \
    X(skip_dir_sync, "a new segment's name is not synced") \
    X(skip_header_sync, "a new segment is named before its header is synced") \
    X(forget_vote, "a restart forgets whom this server voted for") \
    X(forget_term, "a restart finds the term one lower") \
    X(skip_vote_sync, "term and vote are not synced") \
    X(ack_before_majority, "a leader takes for committed what only its own disk has") \
    X(apply_unpersisted, "a follower applies what its own disk does not have yet") \
    X(read_without_barrier, "a new leader answers linearizable reads before its barrier is committed") \
    X(stale_read, "a linearizable read is answered without asking a majority") \
    X(truncate_too_few, "recovery replays a truncation one entry short") \
    X(truncate_last_only, "the record of a truncation names the last entry only") \
    X(apply_twice, "a repeated append is applied again") \
    X(ignore_epoch, "an append of a fenced epoch is taken") \
    X(fence_nothing, "a fence is acknowledged and not kept") \
    X(trim_too_many, "a trim takes one event more") \
    X(trim_needed, "a trim takes what a valid snapshot needs") \
    X(forget_session, "what a producer has appended is not stored with the index") \
    X(skip_record_crc, "a record's checksum is not looked at") \
    X(index_too_far, "the index says that it has one entry more") \
    X(index_too_short, "the index says that it has one entry less") \
    X(policy_too_far, "a retention policy takes one event more than its snapshots allow") \
    X(policy_bytes, "a retention policy of bytes takes all of an append of which it must keep a part (a bug that was there)") \
    X(moved_unsynced, "events that were moved out of a sparse segment are not synced before the index points to them") \
    X(reclaim_live, "segments go though events are in them") \
    X(compact_not_durable, "the log's beginning goes beyond what the index has durably") \
    X(base_unsynced, "where the log begins is not synced") \
    X(answer_strangers, "who waits for an entry is answered by another leader's") \
    X(compact_uncommitted, "after a start, the log's beginning goes beyond what is known to be committed (a bug that was there)") \
    X(greet_forever, "a server that never answers a greeting is waited for for ever (a bug that was there)") \
    X(ask_forever, "the answer to a question for another server's alarm is the next question") \
    X(copy_forever, "who waits for a copy of the state asks for no sign of life meanwhile (a bug that was there)") \
    X(fetch_removed, "who was removed while it fetches the state asks for it for ever (a bug that was there)") \
    X(leak, "a waiting session's reference is not given back") \
    X(send_before_vote, "messages leave before term and vote are stored") \
    X(lost_counts, "a server that lost its disk is still taken for the one that had it") \
    X(removed_stays, "a server that was removed is still let in") \
    X(note_stale, "who was there before is noted as the server that was added (a bug that was there)") \
    X(backup_early, "a backup does not wait for what was acknowledged before it") \
    X(load_no_sessions, "a start does not read what producers have appended") \
    X(found_by_majority, "a majority of the founders founds the cluster") \
    X(forget_founders, "a restart forgets whom this server has met, and told") \
    X(note_unsynced, "whom a server has met is told before it is durable") \
    X(accept_emptied, "who comes to the founding with another data directory than the others were told takes the place of the one that it was") \
    X(found_unheard, "who has met all founds the cluster, and does not hear whether they have") \
    X(met_before, "who is added while it is connected is not noted, and cannot be promoted (a bug that was there)") \
    X(torn_index, "a new index is made where it is to be: a kill meanwhile leaves one that looks damaged (a bug that was there)") \
    X(unused_segment, "a log that was begun and has no record looks like one: nobody may empty a founder (a bug that was there)") \
    X(count_after_end, "a stop with queries under way counts their refusal in freed memory (a bug that was there)")

enum mutant {
    MUTANT_none,
#define X(name, what) MUTANT_##name,
    MUTANTS_LIST(X)
#undef X
    MUTANTS
};
struct mutant_text {
    const char *name, *what;
};
extern enum mutant mutant_active;
extern const struct mutant_text mutants[MUTANTS];
#define MUTANT(name) ((unsigned)(mutant_active == MUTANT_##name))

#else

#define MUTANT(name) 0u

#endif

#endif
