/** `carrel doctor`. */
import { dataDirectory } from '../local/directory.ts';
import { exitCodes } from '../exit-codes.ts';
import { examine, summarize } from '../doctor/examine.ts';
import { fix } from '../doctor/fix.ts';
import { renderSummary, renderTopics } from '../doctor/render.ts';
import type { Action } from '../spec.ts';

export const doctor: Action = async ({ args, out }) => {
  if (args.flag('fix')) await fix();
  using progress = out.progress();
  progress.update('trying things out');
  const topics = await examine({ root: process.getuid?.() === 0, data: dataDirectory(args) });
  const summary = summarize(topics);
  progress.clear();
  out.result(
    {
      ...summary,
      findings: topics.flatMap(({ topic, findings }) => findings.map((finding) => ({ topic, ...finding }))),
    },
    () => `${renderTopics(topics, out, { all: args.flag('all') })}\n\n${renderSummary(summary, out)}`,
  );
  return summary.ready ? undefined : exitCodes.failed;
};
