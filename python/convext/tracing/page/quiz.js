// The quiz: the lesson's questions first, then generated ones; all come with the page.

// Whether a reply is right; null if it has neither a number nor the word "none". As
// Question.check in quiz.py.
function checkReply(question, reply) {
  const numbers = (reply.match(/(?<!\d)-?\d+/g) || []).map(Number);
  if (!numbers.length && !reply.toLowerCase().includes("none")) return null;
  const wanted = question.answer;
  const equal = (a, b) => a.length === b.length && a.every((number, i) => number === b[i]);
  const square = question.kind === "size" && wanted.length === 2 && wanted[0] === wanted[1];
  return equal(numbers, wanted) || (square && equal(numbers, wanted.slice(0, 1)));
}

class QuizView {
  constructor(quiz) {
    this.lesson = quiz.lesson.length;
    this.questions = [...quiz.lesson, ...quiz.generated];
    this.index = 0;
    this.right = 0;
    this.asked = 0;
    this.graded = false;
    byId("quiz-form").addEventListener("submit", event => {
      event.preventDefault();
      this.check();
    });
    byId("quiz-next").addEventListener("click", () => {
      this.show((this.index + 1) % this.questions.length);
      byId("quiz-reply").focus();
    });
    this.show(0);
  }

  show(index) {
    const question = this.questions[index];
    this.index = index;
    this.graded = false;
    const lesson = index < this.lesson;
    byId("quiz-count").textContent = lesson ? `Question ${index + 1} of the lesson's ${this.lesson}`
      : `Generated question ${index + 1 - this.lesson} of ${this.questions.length - this.lesson}`;
    byId("quiz-question").textContent = question.text;
    byId("quiz-hint").textContent = `Answer: ${question.hint}.`;
    byId("quiz-reply").value = "";
    byId("quiz-verdict").textContent = "";
    byId("quiz-verdict").className = "verdict";
  }

  // The first answer counts for the score; the question may be tried again.
  check() {
    const question = this.questions[this.index], verdict = byId("quiz-verdict");
    const right = checkReply(question, byId("quiz-reply").value);
    if (right === null) {
      verdict.className = "verdict";
      verdict.textContent = `Please answer with ${question.hint}.`;
      return;
    }
    if (!this.graded) {
      this.asked += 1;
      this.right += right ? 1 : 0;
    }
    this.graded = true;
    verdict.className = `verdict ${right ? "right" : "wrong"}`;
    verdict.textContent = `${right ? "Right." : "Not quite."} ${question.explanation}`;
    byId("quiz-score").textContent = `${this.right} of ${this.asked} right at the first answer.`;
  }
}
