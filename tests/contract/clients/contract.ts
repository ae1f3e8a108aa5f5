// What a client in TypeScript may and may not write. Each line below `@ts-expect-error` must not compile: if it does,
// the compiler says that nothing was to be expected there.
import type { components, paths } from "./proxima";

type Schema = components["schemas"];
type Post = paths["/v1/courses/{course}/responses"]["post"];
type Outcome = Post["responses"][201]["content"]["application/json"];

// An answer has exactly one result.
export const right: Schema["ResponseIn"] = { learner: "ann", item: "i1", correct: true };
export const points: Schema["ResponseIn"] = { learner: "ann", item: "i1", score: 0.5, correct: null };
// @ts-expect-error neither
export const neither: Schema["ResponseIn"] = { learner: "ann", item: "i1" };
// @ts-expect-error both
export const both: Schema["ResponseIn"] = { learner: "ann", item: "i1", correct: true, score: 1 };
// @ts-expect-error nobody
export const nobody: Schema["ResponseIn"] = { item: "i1", correct: true };
// @ts-expect-error a text for a number
export const text: Schema["ResponseIn"] = { learner: "ann", item: "i1", score: "1" };
// @ts-expect-error a field that there is not
export const misspelt: Schema["ResponseIn"] = { learner: "ann", item: "i1", corect: true };
// @ts-expect-error a language that there are no texts in
export const language: Schema["NextIn"] = { language: "xx" };
// @ts-expect-error both, in a test
export const inTest: Schema["SessionResponseIn"] = { item: "q1", correct: true, score: 1 };

// A batch has answers and nothing else.
export const batch: Schema["BatchIn"] = { responses: [right, points] };
// @ts-expect-error no answers
export const nonsense: Schema["BatchIn"] = { responses: [1, "x"] };
// @ts-expect-error one of them without a result
export const half: Schema["BatchIn"] = { responses: [right, { learner: "ann", item: "i1" }] };

// What has a default can be left out.
export const test: Schema["SessionIn"] = { stop: { max_items: 5 }, selection: { rule: "random" } };
// @ts-expect-error a test that may never end
export const endless: Schema["SessionIn"] = { learner: "ann" };

// Parameters are those of their model.
export const known: Schema["ItemIn"] = { id: "i1", skills: ["s1"], parameters: { model: "2PL", a: 1.2, b: -0.4 } };
export const graded: Schema["ItemParameters"] = { model: "graded", thresholds: [-1, 0, 1] };
// @ts-expect-error 2PL without a
export const flat: Schema["ItemParameters"] = { model: "2PL", b: 0 };
// @ts-expect-error 1PL with c
export const guessing: Schema["ItemParameters"] = { model: "1PL", b: 0, c: 0.2 };
// @ts-expect-error texts for thresholds
export const words: Schema["ItemParameters"] = { model: "PCM", thresholds: ["low", "high"] };
// @ts-expect-error a model that there is not
export const model: Schema["ItemParameters"] = { model: "5PL", b: 0 };

// An outcome is read without a cast.
export function read(outcome: Outcome): string {
  const [low, high]: [number, number] = outcome.mastery[0]!.interval;
  const code = outcome.next?.reason.code;
  if (code === "practice_skill") return outcome.next!.reason.text;
  // @ts-expect-error a code that there is not
  if (code === "practise_skill") return "";
  // @ts-expect-error an interval has two ends
  const third = outcome.mastery[0]!.interval[2];
  // @ts-expect-error next may be null
  const item = outcome.next.item;
  return `${low} ${high} ${third} ${item} ${outcome.offer?.matches}`;
}

export function readBatch(result: Schema["BatchOut"]["results"][number]): string {
  // @ts-expect-error a status that there is not
  if (result.status === "pending") return "";
  if (result.status === "created" || result.status === "duplicate") return result.response.id;
  if (result.status === "conflict" || result.status === "invalid") {
    // @ts-expect-error what was refused has no outcome
    return `${result.error.code} ${result.response}`;
  }
  return "";
}

export function readReport(calibration: Schema["CalibrationOut"]): number {
  // @ts-expect-error without success there is no report
  const unchecked = calibration.report.log_loss_after;
  const report = calibration.report;
  if (!report) return unchecked;
  const worst = report.suspect_items.items[0];
  if (worst?.problem === "negative_discrimination") return worst.correlation;
  // @ts-expect-error a misspelt field
  const loss: number = report.logloss_after;
  return report.log_loss_after - report.log_loss_before + report.mastery.gained + loss;
}

export function readSession(session: Schema["SessionOut"]): string {
  if (session.stop?.code === "standard_error") return session.stop.text;
  // @ts-expect-error a state that there is not
  if (session.status === "done") return "";
  return session.next?.reason.code === "pilot_item" ? "tried out" : session.status;
}

// Every reply that is an error has a code.
export const codeOf = (problem: Post["responses"][409]["content"]["application/problem+json"]): string => problem.code;
