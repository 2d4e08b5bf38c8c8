import 'headcount-client/element'; // defines <active-connections>
